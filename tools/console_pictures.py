"""The pictures of the console in the documentation: ``python -m tools.console_pictures docs``.

Models of scikit-learn's digits are served and asked without a pause, and Chromium looks at the
page. It needs what ``make http`` installs.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect, sync_playwright
from sklearn.datasets import load_digits

import soma_core as soma

__all__ = ["main"]

_CONFIG = """
[server]
port = 0

[models.digits]
filter = "sklearn.SVC"
checkpoint = "digits.soma"
workers = 2
batching = { max_rows = 64, max_delay = 0.005 }
inputs = [{ name = "images", datatype = "FP64", shape = [-1, 64] }]
outputs = [{ name = "digits", datatype = "INT64", shape = [-1] }]

[models.probabilities]
filter = "sklearn.GaussianNB"
config = { output = "predict_proba" }
checkpoint = "probabilities.soma"
inputs = [{ name = "images", datatype = "FP64", shape = [-1, 64] }]

[models.components]
filter = "sklearn.PCA"
config = { n_components = 2 }
checkpoint = "components.soma"
inputs = [{ name = "images", datatype = "FP64", shape = [-1, 64] }]
"""
_FILTERS = {
    "digits": ("sklearn.SVC", {}),
    "probabilities": ("sklearn.GaussianNB", {"output": "predict_proba"}),
    "components": ("sklearn.PCA", {"n_components": 2}),
}
_SECONDS = 40  # of charts


def _train(directory: Path, images: Any, labels: Any) -> None:
    """The checkpoints of the models, and a recording with a few calls that fail."""
    states = {}
    for name, (filter_name, config) in _FILTERS.items():
        filters = {name: (filter_name, config)}
        with soma.connect(filters=filters, pickle="never", threads=1) as worker:
            worker.fit(name, images, labels)
            worker.save_checkpoint(directory / f"{name}.soma")
            states[name] = worker.get_state(name)
    recording = directory / "digits.jsonl"
    filters = {"digits": _FILTERS["digits"], "components": _FILTERS["components"]}
    with soma.connect(filters=filters, record=recording) as worker:
        for name in filters:
            worker.set_state(name, states[name])
        for number in range(600):
            rows = images[number : number + 1]
            worker.forward("digits" if number % 3 else "components", rows)
            if number % 97 == 42:
                _fails(lambda: worker.forward("digits", np.full((1, 64), np.nan)))


def _fails(call: Any) -> None:
    try:
        call()
    except soma.RemoteError:
        return
    raise AssertionError("it was to fail")


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    """The models, over HTTP; yields the URL."""
    (directory / "models.toml").write_text(_CONFIG)
    command = [sys.executable, "-m", "soma_core.cli", "serve", "http", "--config", "models.toml"]
    server = subprocess.Popen(command, cwd=directory, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        yield server.stderr.readline().split()[-1]
    finally:
        server.terminate()
        server.wait()


@contextmanager
def _asked(url: str, images: Any) -> Iterator[None]:
    """The models are asked, now more and now less."""
    stopped = threading.Event()
    callers = [
        threading.Thread(target=_ask, args=[url, name, images, number, stopped])
        for number, name in enumerate(["digits"] * 4 + ["probabilities", "components"])
    ]
    for caller in callers:
        caller.start()
    try:
        yield
    finally:
        stopped.set()
        for caller in callers:
            caller.join()


def _ask(url: str, model: str, images: Any, seed: int, stopped: threading.Event) -> None:
    random = np.random.default_rng(seed)
    with soma.connect("http", url=url, model=model) as worker:
        pace = 0.02
        for number in count():
            if number % 40 == 0:
                pace = random.uniform(0.002, 0.05)
            if stopped.wait(pace):
                return
            first = random.integers(len(images) - 8)
            worker.forward(model, images[first : first + random.integers(1, 8)])


def _look(page: Page, recording: Path, folder: Path) -> None:
    page.wait_for_timeout(_SECONDS * 1000)
    page.screenshot(path=folder / "console.png")
    page.evaluate("document.querySelector('header').style.position = 'static'")
    page.fill("#filter", "sklearn.StandardScaler")
    page.press("#filter", "Tab")
    page.wait_for_selector("#settings label")
    page.click("#loading button")
    page.wait_for_selector("#loaded tbody tr")
    page.fill("#given .shape", "4, 2")
    page.fill("#given .data", "0.64, 0.27, 0.04, 0.02, 0.81, 0.91, 0.61, 0.73")
    page.click("#running button[value=FIT]")
    page.wait_for_selector("#replied:not(:empty)")
    page.fill("#command", '{\n "cmd": "FORWARD",\n "node_id": 3,\n "data": [1.0, 2.0]\n}')
    page.wait_for_selector("#wrong:not(:empty)")
    page.wait_for_timeout(5000)
    page.locator("#bench").screenshot(path=folder / "console-filter.png")
    page.set_input_files("#recording", recording)
    page.wait_for_selector("#rows > div")
    page.fill("#find", "forward digits")
    for key in ("Home", *["ArrowDown"] * 30):
        page.press("#entries", key)
    page.locator("#recordings").screenshot(path=folder / "console-recording.png")


def main(folder: Path) -> None:
    """Take the pictures, and put them into a folder."""
    images, labels = load_digits(return_X_y=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        directory = Path(name)
        _train(directory, images, labels)
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1180, "height": 860})
        with _served(directory) as url:
            page.goto(f"{url}/console/")
            expect(page.locator(".badge.ready")).to_have_count(len(_FILTERS), timeout=30_000)
            with _asked(url, images):
                _look(page, directory / "digits.jsonl", folder)
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the pictures go")
    main(parser.parse_args().folder)
