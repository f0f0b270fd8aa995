"""The console in a browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma

from .conftest import TOKEN, serving

playwright = pytest.importorskip("playwright.sync_api", reason="make http has playwright")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("chromium is not installed", allow_module_level=True)

MODULE = """
import soma_core as soma


class Double(soma.Filter):
    times: float = 2.0

    def fit(self, x, y=None):
        return {"seen": len(x)}

    def forward(self, x, state):
        return x * self.times
"""
CONFIG = """
[server]
port = 0
tokens = "tokens.txt"
[models.double]
filter = "acme.Double"
"""
CALLS = 5000


class Double(soma.Filter):
    """The same, but for one call; and one that fails."""

    def forward(self, x: Any, state: Any) -> Any:
        if np.isnan(x).any():
            raise ValueError("x has gaps")
        return x * 2 if x[0] != 2007 else x * 3


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("browser")
    info = directory / "site" / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[soma.filters]\nacme.Double = acme_double:Double\n")
    (directory / "site" / "acme_double.py").write_text(MODULE)
    found = os.pathsep.join(filter(None, [str(info.parent), os.environ.get("PYTHONPATH")]))
    with serving(directory, CONFIG, PYTHONPATH=found) as url:
        yield url


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of more than 10,000 entries."""
    path = tmp_path_factory.mktemp("recording") / "flight.jsonl"
    with soma.connect("inline", filters={"double": Double()}, record=path) as worker:
        for number in range(CALLS):
            worker.forward("double", np.full(4, float(number)))
        with pytest.raises(ValueError, match="gaps"):
            worker.forward("double", np.array([np.nan]))
    return path


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Any]:
    """The page, on a processor that is four times slower, once the model is ready."""
    playwright.expect.set_options(timeout=60_000)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 800}, color_scheme="dark")
        page.set_default_timeout(60_000)
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{url}/console/")
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 4})
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        page.wait_for_selector(".badge.ready")
        yield page
        assert said == []
        browser.close()


def shows(page: Any, selector: str, text: str) -> None:
    """Wait until an element has a text."""
    playwright.expect(page.locator(selector)).to_contain_text(text)


def opens(page: Any, recording: Path) -> None:
    """Open a recording, also one that was open before."""
    page.set_input_files("#recording", [])
    page.set_input_files("#recording", recording)
    shows(page, "#recorded", "without a result")


def test_a_model_is_tried_by_its_form(page):
    page.click(".try >> xpath=.. >> summary")
    page.fill(".try .shape", "2")
    page.fill(".try .data", "1.5, 2")
    page.press(".try .data", "Tab")
    page.click(".try > button")
    shows(page, ".try .answer", "[3,4]")


def test_what_all_models_do_together_is_seen_at_a_glance(page):
    tiles = page.locator("#totals figure")
    playwright.expect(tiles).to_have_count(5)
    playwright.expect(tiles.filter(has_text="models ready").locator("b")).to_have_text("1")
    playwright.expect(tiles.filter(has_text="workers").locator("b")).to_have_text("1")


def test_a_picture_becomes_a_tensor(page, tmp_path):
    rows = b"".join(b"\0" + bytes([255, 0, 9] * 2) for _ in range(3))

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", 2, 3, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    (tmp_path / "small.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    page.set_input_files(".try .file", tmp_path / "small.png")
    playwright.expect(page.locator(".try .shape")).to_have_value("1, 3, 2, 3")
    assert page.input_value(".try .datatype") == "UINT8"
    assert page.input_value(".try .data").startswith("255,0,9,255,0,9")


def test_a_long_recording_is_browsed_by_keyboard_and_stays_smooth(page, recording):
    page.set_input_files("#recording", recording)
    shows(page, "#recorded", f"of {CALLS + 3} commands, 1 without a result")
    assert page.locator("#rows > div").count() < 60
    page.focus("#entries")
    for key in ("Home", "ArrowDown", "End"):
        page.press("#entries", key)
    shows(page, "#entry", "x has gaps")
    longest = page.evaluate(
        """async () => {
            const list = document.querySelector("#entries");
            let longest = 0, last = performance.now();
            for (let step = 0; step < 60; step++) {
                list.scrollTop = (step * 7919 * 28) % list.scrollHeight;
                await new Promise(requestAnimationFrame);
                const now = performance.now();
                longest = Math.max(longest, now - last);
                last = now;
            }
            return longest;
        }"""
    )
    assert longest < 1000, "a list that makes all its rows takes seconds for a step"
    page.fill("#find", "failed gaps")
    playwright.expect(page.locator("#rows > div")).to_have_count(1)


def test_a_recording_is_replayed_and_its_differences_are_shown(page, recording):
    opens(page, recording)
    page.fill("#find", "401 FORWARD double ok")  # the call with 2007 is entry 4019
    page.select_option("#against", "double")
    page.click("#replay button")
    shows(page, "#recorded", "double: 14 same, 1 different")
    shows(page, "#rows", "different: 4 of 4 values differ, by 2.01e+3 at most")


def test_a_filter_is_tried_by_a_form_of_its_schema(page):
    page.focus("#filter")
    page.fill("#filter", "acme.Double")
    page.press("#filter", "Tab")
    page.fill("[data-setting=times]", "2.5")
    page.click("#loading button")
    shows(page, "#loaded", "acme.Double")
    page.fill("#given .shape", "2")
    page.fill("#given .data", "1, 2")
    page.click("button[value=FIT]")
    shows(page, "#loaded", "learned")
    page.click("button[value=FORWARD]")
    shows(page, "#replied", "2.5,")
    assert '"node_id": "a"' in page.input_value("#command")
    shows(page, "#bench-status", "process")


def test_data_are_drawn_from_a_recording(page, recording):
    opens(page, recording)
    page.fill("#find", "4019")
    page.focus("#entries")
    page.press("#entries", "Home")
    page.click("#given .draw")
    playwright.expect(page.locator("#given .data")).to_have_value("2007,2007,2007,2007")
    page.click("button[value=FORWARD]")
    shows(page, "#replied", "5017.5")


@pytest.mark.parametrize(
    ("typed", "said", "marked"),
    [
        ('{"cmd": "PING" "id": 1}', "line 1, column 16", '"'),
        ('{"cmd": "FORWARD",\n "node_id": 3}', "line 2, column 13: FORWARD: node_id", "3"),
        ('{"cmd": "DANCE"}', "unknown command: DANCE", '"DANCE"'),
        ('{"cmd": "FORWARD"}', "node_id: this field is required", "{"),
    ],
)
def test_a_command_is_checked_as_one_types_with_the_error_at_its_place(page, typed, said, marked):
    page.fill("#command", typed)
    shows(page, "#wrong", said)
    assert page.locator("#marked mark").text_content() == marked
    page.fill("#command", '{"cmd": "LIST"}')
    playwright.expect(page.locator("#wrong")).to_be_empty()
    assert page.locator("#marked mark").count() == 0


def test_a_recording_is_run_again_by_a_new_worker(page, tmp_path):
    path = tmp_path / "short.jsonl"
    with soma.connect("stdio", record=path, pickle="never") as worker:
        worker.ping()
    page.fill("#find", "")
    opens(page, path)
    page.select_option("#against", "")
    page.click("#replay button")
    shows(page, "#recorded", "a new worker: 2 same")


def test_the_requests_are_described_without_a_network(page, url):
    page.goto(f"{url}/docs/")
    shows(page, "#operations", "/v2/models/{model}/infer")
    page.locator("summary", has_text="/v2/models/{model}/infer").first.click()
    page.locator("a", has_text="InferenceRequest").first.click()
    playwright.expect(page.locator("#InferenceRequest[open] pre")).to_contain_text("RequestInput")
    page.goto(f"{url}/console/")
    page.wait_for_selector(".badge.ready")


def test_nothing_is_wider_than_a_phone(page):
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
