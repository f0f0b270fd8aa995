"""An engine with the cache in front of it, without a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from soma_cache.plugin import Caching
from soma_cache.settings import CacheSettings

import soma_core as soma
from soma_core.plugins.manager import installed_plugins

Connect = Callable[..., soma.Worker]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def caching(directory: Path) -> Iterator[Caching]:
    """The plugin, registered in this process."""
    caching = Caching(CacheSettings(directory, 64 << 20))
    plugins = installed_plugins()
    plugins.register("cache under test", caching)
    yield caching
    plugins.unregister("cache under test")


@pytest.fixture
def connect(caching: Caching) -> Iterator[Connect]:
    """Connects inline, with the cache."""
    workers = []

    def connect(**filters: Any) -> soma.Worker:
        workers.append(soma.connect("inline", filters=filters))
        return workers[-1]

    yield connect
    for worker in workers:
        worker.close()
