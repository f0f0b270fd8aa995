"""The same work over soma and its peers, in one run: ``python -m benchmarks --help``."""

import os

# Installed packages start from their bytecode; so does this checkout, whatever the shell says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
