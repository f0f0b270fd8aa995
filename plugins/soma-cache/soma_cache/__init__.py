"""Results of deterministic filters, kept on disk by what went into them.

The plugin is in ``soma_cache.plugin``, which is imported only where results are to be kept.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from soma_cache.settings import CacheOptions, settings_from

__all__ = ["SOMA_API_VERSION", "CacheOptions", "installed"]

SOMA_API_VERSION = 1


def installed(options: CacheOptions) -> Any:
    """What the entry point names: makes the plugin, one without hooks if none is asked for.

    Args:
        options: What is not given is taken from the environment.

    Raises:
        ValueError: A setting is not valid.
    """
    settings = settings_from(os.environ, options)
    if settings is None:
        return SimpleNamespace()
    from soma_cache.plugin import Caching

    return Caching(settings)
