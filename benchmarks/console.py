"""What the console costs a browser: ``python -m benchmarks.console``, with Chromium and Playwright.

A server shows 100 models, each with a worker and figures that change with every look; the page
opens a recording of 10,000 entries and walks through it. What counts is the processor time of the
page's main thread, by Chromium's own trace, so that other work on the machine does not count; it is
shown for a processor that is four times slower, as phones are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import soma_core as soma
from soma_core.benchmarking import time_name

__all__ = ["measure"]

SLOWER = 4
MODELS, ENTRIES = 100, 10_000
TASK = "ThreadControllerImpl::RunTask"


@contextmanager
def serving() -> Iterator[str]:
    """A server of models that do not exist; yields its URL."""
    import uvicorn
    from soma_http.server.app import make_app
    from soma_http.server.config import ModelConfig, Settings
    from soma_http.server.models import Models, ServedModel

    class Shown(ServedModel):
        """A model that is only looked at."""

        looks = 0
        ready = property(lambda self: True)

        async def start(self) -> None: ...

        def stats(self) -> soma.PoolStats:
            self.looks += 1
            node = _made(soma.NodeStats, p50=0.01, p99=0.02, batches=self.looks)
            return _made(soma.PoolStats, done=self.looks * 7, nodes={self.name: node})

        def workers(self) -> list[soma.WorkerStatus]:
            return [_made(soma.WorkerStatus, pid=4711, command="FORWARD", memory_bytes=1 << 27)]

    configs = {f"model-{number}": ModelConfig(filter="acme.Shown") for number in range(MODELS)}
    app = make_app(Settings(), Models(configs, Shown))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _made(kind: Any, **given: Any) -> Any:
    """An object of a class with some fields, whatever others it has."""
    names = getattr(kind, "__dataclass_fields__", None) or kind.__annotations__
    defaults = dict.fromkeys(names, 0) | {"plugins": {}, "seconds": 1.0}
    return kind(**{name: given.get(name, defaults[name]) for name in names})


def recording(path: Path) -> None:
    """Write a recording of so many entries."""
    lines = [json.dumps({"soma_recording": 2, "time": 0.0, "transport": "stdio", "options": {}})]
    tensor = {"type": "Tensor", "data": {"values": [0.5] * 16, "dtype": "float64", "shape": [16]}}
    for n in range(1, ENTRIES, 2):
        asked = {"cmd": "FORWARD", "id": n, "node_id": f"node-{n % 50}", "data": tensor}
        times = {"time": n * 0.01, "dialect": "line", "buffers": []}
        lines.append(json.dumps({"n": n, "direction": "command", **times, "message": asked}))
        reply = {"ok": n % 97 != 0, "result": tensor, "id": n, "error": "x", "type": "ValueError"}
        answered = {"direction": "reply", "command": n, **times, "message": reply}
        lines.append(json.dumps({"n": n + 1, **answered}))
    path.write_text("\n".join(lines) + "\n")


def tasks(trace: bytes) -> list[float]:
    """Seconds of the processor that each task of the page's main thread took."""
    events = json.loads(trace)["traceEvents"]
    names = {
        (e["pid"], e["tid"]): e["args"].get("name") for e in events if e["name"] == "thread_name"
    }
    main = {place for place, name in names.items() if name == "CrRendererMain"}
    found = [e for e in events if e["name"] == TASK and (e["pid"], e["tid"]) in main]
    return [event.get("tdur", 0) / 1e6 for event in found]


def measure(chromium: str) -> dict[str, list[float]]:
    """The tasks of each part."""
    from playwright.sync_api import expect, sync_playwright

    found: dict[str, list[float]] = {}
    with serving() as url, tempfile.TemporaryDirectory() as directory, sync_playwright() as driver:
        path = Path(directory) / "flight.jsonl"
        recording(path)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800})
        page.set_default_timeout(120_000)

        @contextmanager
        def part(name: str) -> Iterator[None]:
            browser.start_tracing(page=page, categories=["toplevel", "__metadata"])
            yield
            found[name] = tasks(browser.stop_tracing())

        with part("until it can be used"):
            page.goto(f"{url}/console/")
            page.wait_for_selector(f"article:nth-of-type({MODELS}) .badge.ready")
        with part("five looks at all models"):
            page.wait_for_timeout(5_500)
        with part("a recording is opened"):
            page.set_input_files("#recording", path)
            expect(page.locator("#recorded")).to_contain_text("without a result", timeout=120_000)
        with part("it is walked through"):
            page.focus("#entries")
            for key in ("End", "Home", *["PageDown"] * 30):
                page.press("#entries", key)
            page.fill("#find", "failed")
        browser.close()
    return found


def main() -> None:
    """Measure, and print a table; the exit status is 1 if a goal is missed."""
    argparse.ArgumentParser("python -m benchmarks.console", description=__doc__).parse_args()
    chromium = shutil.which("chromium")
    if chromium is None or find_spec("playwright") is None or find_spec("soma_http") is None:
        sys.exit("this needs Chromium, and Playwright and soma-http, as make http has them")
    print(f"| {MODELS} models, {ENTRIES:,} entries | altogether | longest task |")
    print("| --- " * 3 + "|")
    missed = False
    for name, seconds in measure(chromium).items():
        slow = [one * SLOWER for one in seconds]
        print(f"| {name} | {time_name(sum(slow))} | {time_name(max(slow, default=0.0))} |")
        missed |= max(slow, default=0.0) > 0.1 or (name.startswith("until") and sum(slow) > 1.0)
    sys.exit(missed)


if __name__ == "__main__":
    main()
