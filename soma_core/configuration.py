"""For authors of filters: which modules and files a configuration may name."""

from soma_core.models.imports import are_imports_limited, check_file, check_import, limit_imports

__all__ = ["are_imports_limited", "check_file", "check_import", "limit_imports"]
