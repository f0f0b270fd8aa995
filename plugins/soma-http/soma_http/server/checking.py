"""What is wrong with the filters of a configuration, found without a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext

from soma_core.configuration import limit_imports
from soma_core.errors import PluginNotFound
from soma_core.tooling import installed_filters
from soma_http.server.config import ModelConfig, NodeConfig


def filter_mistakes(models: Mapping[str, ModelConfig]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The place of each filter that is not installed or not configured well, and why.

    It imports the filters and makes each, and loads nothing.

    Args:
        models: They are valid as far as is known without filters.
    """
    for name, model in models.items():
        for node_id, node in model.nodes(name).items():
            mistake = _mistake(model, node)
            if mistake is not None:
                field, why = mistake
                inside = () if model.filter is not None else ("chain", node_id)
                yield ("models", name, *inside, field), why


def _mistake(model: ModelConfig, node: NodeConfig) -> tuple[str, str] | None:
    try:
        with limit_imports(model.allow_modules) if model.pickle == "never" else nullcontext():
            installed_filters().create(node.filter, dict(node.config))
    except PluginNotFound as error:
        return "filter", str(error)
    except Exception as error:  # a constructor may raise anything
        return "config", str(error)
    return None
