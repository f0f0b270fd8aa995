"""A configuration that JSON can spell needs no pickle, in states either."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.engine.nodes import Node
from soma_core.engine.training import states
from soma_core.wire.pickles import Pickles


class Kind(enum.Enum):
    A = "a"
    B = "b"


class Inner(soma.Filter):
    depth: int = 1


class Configured(soma.Filter):
    path: Path = Path("x")
    kind: Kind = Kind.A
    since: datetime.timedelta = datetime.timedelta(days=1)
    inner: Inner = Inner()
    weights: Any = None
    type: str = "like a tag"
    data: list[int] = []  # noqa: RUF012 - pydantic copies it

    def forward(self, x: Any, state: Any) -> Any:
        return x


def test_fields_of_any_type_that_json_spells_travel_without_pickles() -> None:
    typed = Pickles(allowed=False)
    sent = Configured(
        path=Path("/a/b"),
        kind=Kind.B,
        since=datetime.timedelta(hours=3),
        inner=Inner(depth=7),
        weights=np.arange(3.0),
        data=[1, 2],
    )
    data = states.get_state(Node("sent", sent), "value", typed)
    received = Node("received", Configured())
    states.set_state(received, data, "value", typed)
    for name in ("path", "kind", "since", "inner", "type", "data"):
        assert getattr(received.obj, name) == getattr(sent, name), name
    np.testing.assert_array_equal(received.obj.weights, sent.weights)


def test_what_json_cannot_spell_is_refused_with_its_name() -> None:
    node = Node("f", Configured(weights=object()))
    with pytest.raises(soma.ProtocolError, match="cannot be expressed as typed values") as caught:
        states.get_state(node, "value", Pickles(allowed=False))
    assert caught.value.code is soma.ErrorCode.INVALID_STATE
