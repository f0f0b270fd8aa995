"""Versions: which host and worker can work together."""

from __future__ import annotations

import platform
from functools import cache

from soma_core.protocol.commands import ClientInfo

__all__ = ["PROTOCOL_VERSION", "client_info", "cloudpickle_version", "skew", "soma_version"]

PROTOCOL_VERSION = 1


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
        return "0+source"


def client_info(name: str) -> ClientInfo:
    """What this process says of itself in HELLO."""
    return ClientInfo(
        name=name,
        soma=soma_version(),
        python=platform.python_version(),
        cloudpickle=cloudpickle_version(),
    )


def skew(protocol: int, client: ClientInfo, *, pickles: bool) -> str | None:
    """Why a client cannot work with this process, or None if it can.

    Args:
        protocol: The version of the protocol that the client speaks.
        client: Its other versions.
        pickles: Whether pickles travel, for which the versions of Python and cloudpickle matter.
    """
    if protocol != PROTOCOL_VERSION:
        return (
            f"the host speaks protocol {protocol} (soma {client.soma}) and the worker protocol "
            f"{PROTOCOL_VERSION} (soma {soma_version()}); install the same soma on both sides"
        )
    if not pickles:
        return None
    here = client_info("worker")
    for what, theirs, ours in (
        ("Python", _leading(client.python, 2), _leading(here.python, 2)),
        ("cloudpickle", _leading(client.cloudpickle, 1), _leading(here.cloudpickle, 1)),
    ):
        if theirs != ours:
            return (
                f"the host has {what} {theirs} and the worker {ours}, between which pickles do not "
                f"travel; run the worker with the host's version of {what}, or connect with "
                "pickle='never' and load registered filters by name"
            )
    return None


def _leading(version: str, parts: int) -> str:
    return ".".join(version.split(".")[:parts])
