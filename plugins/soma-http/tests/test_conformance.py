"""The HTTP transport meets the clauses of every transport."""

from __future__ import annotations

import pytest

from soma_core.testing import TransportConformance

from .conftest import TOKEN

pytestmark = pytest.mark.nightly  # forty workers; test_workers.py has the gate's part


class TestHttp(TransportConformance):
    transport = "http"

    @pytest.fixture(scope="class")
    @classmethod
    def options(cls, trusting_server: str):
        return {"url": trusting_server, "token": TOKEN, "trust_server": True}
