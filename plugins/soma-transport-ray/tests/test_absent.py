"""Without Ray the plugin is installed, listed and checked; only a start needs it."""

from __future__ import annotations

import sys

import pytest
from soma_transport_ray import RayOptions, RayTransport

import soma_core as soma
from soma_core.client.worker import Worker


def test_a_start_without_ray_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(soma.StartFailed, match="pip install 'ray"):
        Worker(RayTransport(RayOptions()))
