"""What one token may use, and all together."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from soma_http.server.app import make_app
from soma_http.server.config import LimitsConfig, ServerConfig, Settings
from soma_http.server.models import Models
from soma_http.server.quotas import Quotas

from .test_inference import CONFIG, INPUT, Served

MINE, YOURS = ({"Authorization": f"Bearer {name}-token-that-is-long"} for name in ("my", "your"))


class Slow(Served):
    """A model that answers once it is let."""

    def __init__(self) -> None:
        super().__init__("slow", lambda x: x)
        self.begun, self.let = asyncio.Event(), asyncio.Event()

    async def run(self, x: Any) -> Any:
        self.begun.set()
        await self.let.wait()
        return x


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.txt"
    path.write_text("my-token-that-is-long\nyour-token-that-is-long\n")
    return path


@pytest.mark.parametrize(
    ("limits", "mine", "yours"),
    [({"token_requests": 1}, 429, 200), ({"connections": 1}, 503, 503)],
    ids=["of a token", "of all"],
)
def test_requests_at_once_have_a_limit_that_probes_do_not_know(tokens, limits, mine, yours):
    async def ask() -> None:
        model = Slow()
        settings = Settings(server=ServerConfig(tokens=tokens), limits=LimitsConfig(**limits))
        app = make_app(settings, Models({"slow": CONFIG}, lambda name, _: model))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            def infer(headers):
                return client.post(
                    "/v2/models/slow/infer", json={"inputs": [INPUT]}, headers=headers
                )

            first = asyncio.create_task(infer(MINE))
            await model.begun.wait()
            refused = await infer(MINE)
            assert (refused.status_code, refused.headers["retry-after"]) == (mine, "1")
            assert (await client.get("/v2", headers=YOURS)).status_code == yours
            assert (await client.get("/v2/health/live")).status_code == 200
            model.let.set()
            assert (await first).status_code == 200
            assert (await infer(MINE)).status_code == 200

    asyncio.run(ask())


def test_a_token_has_so_many_seconds_in_a_minute():
    now = [1000.0]
    quotas = Quotas(None, 3.0, clock=lambda: now[0])
    for _ in range(2):
        assert quotas.refusal(b"me") is None
        with quotas.running(b"me", timed=True):
            now[0] += 2.0
    text, again = quotas.refusal(b"me") or ("", 0)
    assert "3 s" in text
    assert quotas.refusal(b"you") is None
    now[0] += again
    assert quotas.refusal(b"me") is None


def test_the_time_of_a_websocket_is_not_counted():
    now = [0.0]
    quotas = Quotas(1, 1.0, clock=lambda: now[0])
    with quotas.running(b"me", timed=False):
        now[0] += 100.0
        assert quotas.refusal(b"me") is not None
    assert quotas.refusal(b"me") is None
