"""The Ray transport meets the clauses of every transport, on this node and on another one."""

from __future__ import annotations

from typing import ClassVar

import pytest
from soma_transport_ray import RayTransport

from soma_core.testing import Capability, TransportConformance

from .conftest import FAR, HERE

pytestmark = pytest.mark.usefixtures("ray")

LACKS = {
    Capability.EXIT_STATUS: "Ray reaps the process, and tells nobody its exit status",
    Capability.CHILDREN: "Ray leaves the children of a worker that was killed",
}


class TestHere(TransportConformance):
    transport = RayTransport
    lacks: ClassVar = LACKS

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls):
        return {"resources": HERE}


class TestFar(TransportConformance):
    transport = RayTransport
    lacks: ClassVar = LACKS

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls):
        return {"resources": FAR}
