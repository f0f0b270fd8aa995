"""Results of deterministic filters, kept on disk by what went into them.

The plugin is in ``soma_cache.plugin``, which is imported only where the environment asks for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from soma_cache.settings import settings_from

__all__ = ["SOMA_API_VERSION", "installed", "plugin_for"]

SOMA_API_VERSION = 1


def plugin_for(environment: Mapping[str, str]) -> Any:
    """The plugin that an environment asks for; one without hooks if it asks for none.

    Raises:
        ValueError: A setting is not valid.
    """
    settings = settings_from(environment)
    if settings is None:
        return SimpleNamespace()
    from soma_cache.plugin import Caching

    return Caching(settings)


installed = plugin_for(os.environ)
"""What the entry point names."""
