"""The transports that come with soma meet the clauses that a stranger's must meet."""

from __future__ import annotations

from typing import ClassVar

import pytest

from soma_core.testing import Capability, TransportConformance

from ..support import nightly, short_directory, socket_daemon

C = Capability


class TestInline(TransportConformance):
    transport = "inline"
    lacks: ClassVar = {C.ISOLATION: "the engine is called by send, in the host's process"}


class TestStdio(TransportConformance):
    transport = "stdio"


@nightly
class TestSocket(TransportConformance):
    transport = "socket"

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls):
        with short_directory() as directory, socket_daemon(directory / "soma.sock") as daemon:
            yield {"path": daemon.path}
