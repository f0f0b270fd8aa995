"""Plugins that are not installed, and a set of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from soma_core.plugins.manager import PluginSet

__all__ = ["plugin_set"]


class _Installed:
    """Stands for what is installed: plugins by name, or what loading them raises."""

    def __init__(self, plugins: Mapping[str, Any]) -> None:
        self._plugins = plugins

    def names(self) -> list[str]:
        return sorted(self._plugins)

    def load(self, name: str) -> Any:
        plugin = self._plugins[name]
        if isinstance(plugin, Exception):
            raise plugin
        return plugin

    def origin(self, name: str) -> str:
        return f"it is {name}"


def plugin_set(environment: Mapping[str, str] | None = None, **plugins: Any) -> PluginSet:
    """These plugins, as if they were installed; an exception is what loading one raises."""
    return PluginSet(_Installed(plugins), environment or {})  # type: ignore[arg-type]
