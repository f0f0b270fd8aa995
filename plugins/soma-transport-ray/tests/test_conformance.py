"""The Ray transport meets the clauses of every transport, against a real local Ray."""

from __future__ import annotations

from typing import ClassVar

import pytest
from soma_transport_ray import RayTransport

from soma_core.testing import Capability, TransportConformance

pytestmark = pytest.mark.usefixtures("ray")


class TestRay(TransportConformance):
    transport = RayTransport
    lacks: ClassVar = {
        Capability.EXIT_STATUS: "Ray's node agent reaps the process, and tells nobody its status"
    }
