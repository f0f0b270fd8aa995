"""soma: machine-learning filters in processes of their own.

Each name is imported when it is first used: a program that may need soma pays when it does.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if sys.platform == "win32":
    raise ImportError(
        "soma runs on Linux and macOS; under Windows, run this program in WSL, or let it write "
        "lines of JSON to a worker there: wsl python -m soma_transport_stdio"
    )

if TYPE_CHECKING:
    from soma_core.client.connect import connect
    from soma_core.client.data_parallel import DataParallel, average_states
    from soma_core.client.pool.pool import WorkerPool
    from soma_core.client.recording import Recording
    from soma_core.client.remote_filter import RemoteFilter
    from soma_core.client.results import (
        BatchedFitResult,
        CompositeFitResult,
        NodeState,
        Pong,
        WorkerStatus,
    )
    from soma_core.client.worker import Worker
    from soma_core.errors import (
        ChannelClosed,
        DeadlineExceeded,
        ErrorCode,
        IncompatibleWorker,
        PluginApiMismatch,
        PluginConflict,
        PluginError,
        PluginLoadFailed,
        PluginNotFound,
        ProtocolError,
        RemoteError,
        SomaError,
        StartFailed,
        StateLost,
        TransportError,
        WorkerDied,
    )
    from soma_core.models.filters import (
        Distribution,
        Filter,
        FilterKind,
        FilterMeta,
        Remote,
        StreamMode,
        Tag,
        WorkerId,
    )
    from soma_core.models.schema import DataType, Dimension, Dynamic, Fixed, Schema
    from soma_core.models.values import Bytes, Empty, Json, Object, Tensor, Text, Value
    from soma_core.plugins.hookspecs import hookimpl

__all__ = [
    "BatchedFitResult",
    "Bytes",
    "ChannelClosed",
    "CompositeFitResult",
    "DataParallel",
    "DataType",
    "DeadlineExceeded",
    "Dimension",
    "Distribution",
    "Dynamic",
    "Empty",
    "ErrorCode",
    "Filter",
    "FilterKind",
    "FilterMeta",
    "Fixed",
    "IncompatibleWorker",
    "Json",
    "NodeState",
    "Object",
    "PluginApiMismatch",
    "PluginConflict",
    "PluginError",
    "PluginLoadFailed",
    "PluginNotFound",
    "Pong",
    "ProtocolError",
    "Recording",
    "Remote",
    "RemoteError",
    "RemoteFilter",
    "Schema",
    "SomaError",
    "StartFailed",
    "StateLost",
    "StreamMode",
    "Tag",
    "Tensor",
    "Text",
    "TransportError",
    "Value",
    "Worker",
    "WorkerDied",
    "WorkerId",
    "WorkerPool",
    "WorkerStatus",
    "average_states",
    "connect",
    "hookimpl",
]

_MODULES = {
    "soma_core.errors": (
        "ChannelClosed",
        "DeadlineExceeded",
        "ErrorCode",
        "IncompatibleWorker",
        "PluginApiMismatch",
        "PluginConflict",
        "PluginError",
        "PluginLoadFailed",
        "PluginNotFound",
        "ProtocolError",
        "RemoteError",
        "SomaError",
        "StartFailed",
        "StateLost",
        "TransportError",
        "WorkerDied",
    ),
    "soma_core.models.filters": (
        "Distribution",
        "Filter",
        "FilterKind",
        "FilterMeta",
        "Remote",
        "StreamMode",
        "Tag",
        "WorkerId",
    ),
    "soma_core.plugins.hookspecs": ("hookimpl",),
    "soma_core.models.schema": (
        "DataType",
        "Dimension",
        "Dynamic",
        "Fixed",
        "Schema",
    ),
    "soma_core.models.values": (
        "Bytes",
        "Empty",
        "Json",
        "Object",
        "Tensor",
        "Text",
        "Value",
    ),
    "soma_core.client.results": (
        "BatchedFitResult",
        "CompositeFitResult",
        "NodeState",
        "Pong",
        "WorkerStatus",
    ),
    "soma_core.client.connect": ("connect",),
    "soma_core.client.remote_filter": ("RemoteFilter",),
    "soma_core.client.worker": ("Worker",),
    "soma_core.client.data_parallel": ("DataParallel", "average_states"),
    "soma_core.client.pool.pool": ("WorkerPool",),
    "soma_core.client.recording": ("Recording",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
