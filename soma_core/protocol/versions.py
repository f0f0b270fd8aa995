"""Versions: which host and worker can work together."""

from __future__ import annotations

import platform
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import ConfigDict, Field

from soma_core.errors import IncompatibleWorker
from soma_core.protocol.commands import ClientInfo
from soma_core.protocol.replies import Reply, Versions

PROTOCOL_VERSION = 1
_SOURCE = "0+source"
_NOT_KNOWN = {"", _SOURCE}


def soma_version() -> str:
    """The installed version of soma-core."""
    return _installed("soma-core")


def cloudpickle_version() -> str:
    """The installed version of cloudpickle, which is not imported for this."""
    return _installed("cloudpickle")


@cache
def _installed(distribution: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:  # run from a source tree that is not installed
        return _SOURCE


def client_info(name: str) -> ClientInfo:
    """What this process says of itself in HELLO."""
    return ClientInfo(
        name=name,
        soma=soma_version(),
        python=platform.python_version(),
        cloudpickle=cloudpickle_version(),
    )


class Side(NamedTuple):
    """The versions of one side; an empty one is of something that the side does not have."""

    protocol: int
    soma: str
    python: str
    cloudpickle: str

    @classmethod
    def here(cls) -> Side:
        """This process."""
        return cls.of(PROTOCOL_VERSION, client_info("here"))

    @classmethod
    def of(cls, protocol: int, versions: Any) -> Side:
        """What a HELLO or its reply says: anything with the versions as attributes."""
        return cls(protocol, versions.soma, versions.python, versions.cloudpickle)


def skew(host: Side, worker: Side, *, pickles: bool) -> str | None:
    """Why a host and a worker cannot work together, or None if they can.

    Args:
        host: The versions of the host.
        worker: The versions of the worker.
        pickles: Whether pickles travel; without them only the protocol must be the same.
    """
    if host.protocol != worker.protocol:
        return (
            f"the host speaks protocol {host.protocol} (soma {host.soma}) and the worker protocol "
            f"{worker.protocol} (soma {worker.soma}); install the same "
            "soma-core on both sides"
        )
    if not pickles:
        return None
    return next(filter(None, (_difference(name, host, worker) for name in _REMEDIES)), None)


_REMEDIES = {
    "python": (
        "Python",
        "run the worker with Python {0} (the stdio transport takes python='/path/to/python{0}')",
    ),
    "cloudpickle": ("cloudpickle", "pip install 'cloudpickle=={0}.*' where the worker runs"),
    "soma": ("soma", "pip install 'soma-core=={0}.*' where the worker runs"),
}


def _difference(name: str, host: Side, worker: Side) -> str | None:
    """Why pickles cannot travel for one version's sake; None if they can, or it is not known."""
    theirs, ours = getattr(host, name), getattr(worker, name)
    wanted = _series(name, theirs)
    if wanted == _series(name, ours) or {theirs, ours} & _NOT_KNOWN:
        return None
    title, remedy = _REMEDIES[name]
    return (
        f"the host has {title} {theirs} and the worker {title} {ours}, between which pickles do "
        f"not travel; {remedy.format(wanted)}, or connect with pickle='never' and load registered "
        "filters by name, which works across versions"
    )


def _series(name: str, version: str) -> str:
    """What of a version must be the same on both sides for pickles to travel."""
    whole_series = name == "cloudpickle" or (name == "soma" and not version.startswith("0."))
    return ".".join(version.split(".")[: 1 if whole_series else 2])


class WorkerHello(Reply):
    """What a host needs of the reply to HELLO; a later worker may say more."""

    model_config = ConfigDict(extra="ignore")

    protocol: int
    versions: Versions
    pid: int
    incarnation: str
    codecs: list[str] = Field(default=[])
    features: list[str] = Field(default=[])
    pickle: Literal["same-user", "never"]

    def check(self, *, pickles: bool) -> None:
        """Compare versions once more: the worker may not have.

        Raises:
            IncompatibleWorker: Its versions do not fit this host's.
        """
        worker = Side.of(self.protocol, self.versions)
        mismatch = skew(Side.here(), worker, pickles=pickles and self.pickle != "never")
        if mismatch:
            raise IncompatibleWorker(mismatch)
