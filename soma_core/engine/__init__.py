"""The engine: executes commands against its nodes; knows no transport."""

from soma_core.engine.engine import Engine, EngineInfo
from soma_core.engine.nodes import FilterFailed

__all__ = ["Engine", "EngineInfo", "FilterFailed"]
