"""Losses as scikit-learn 1.7 and 1.8 compiled them, spelled as those of later versions are."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn._loss import loss as losses
from soma_filters_sklearn.compiled import spelling_of


def as_compiled(reduced: Any) -> Any:
    """An object that says of itself what a compiled loss of these versions says."""
    members = {"__module__": "_loss", "__reduce__": lambda self: reduced(type(self))}
    return type("CyAbsoluteError", (), members)()


@pytest.mark.parametrize(
    "reduced",
    [
        lambda kind: (kind, ()),
        lambda kind: (print, (kind, 238750788, ())),
        lambda kind: (print, (kind, 238750788, None), ()),
    ],
    ids=["by its class", "by Cython", "by Cython, with a state of its own"],
)
def test_a_loss_under_a_short_name_comes_back_as_that_of_this_version(reduced: Any) -> None:
    value = as_compiled(reduced)
    spelling = spelling_of(value)
    assert spelling is not None
    parts = spelling.take(value)
    assert parts == {"class": "sklearn._loss._loss.CyAbsoluteError", "arguments": ()}
    assert type(spelling.make(parts)) is type(losses.AbsoluteError().closs)


def test_a_loss_that_holds_more_than_its_arguments_is_not_spelled() -> None:
    value = as_compiled(lambda kind: (print, (kind, 238750788, None), ("more",)))
    spelling = spelling_of(value)
    assert spelling is not None
    assert spelling.take(value) is None
