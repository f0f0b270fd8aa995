"""The code on the page about Ray runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed; make ray tests with one of its own")

PAGE = Path(__file__).parents[3] / "docs" / "ray.md"


def test_the_blocks_of_the_page_run_one_after_the_other(ray, capsys):
    code = "\n".join(re.findall(r"^```py\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    assert capsys.readouterr().out == "[[3.]]\n"
