"""``python -m soma_core.cli``, where the ``soma`` script is not on the path."""

from soma_core.cli import main

if __name__ == "__main__":
    main()
