"""The page on scikit-learn's estimators, written by ``python -m tools.sklearn_estimators``."""

from __future__ import annotations

import inspect
import runpy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sklearn
from soma_filters_sklearn import estimators
from soma_filters_sklearn.entry_points import LEFT_OUT, list_estimators
from soma_filters_sklearn.outputs import TRANSDUCTIVE, automatic, outputs_of

_PLUGIN = Path(__file__).resolve().parents[1] / "plugins" / "soma-filters-sklearn"
_SAMPLES = runpy.run_path(str(_PLUGIN / "tests" / "samples.py"))
PICKLED, sample_of = _SAMPLES["PICKLED"], _SAMPLES["sample_of"]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "sklearn-estimators.md"
_INTRODUCTION = """\
# scikit-learn's estimators

Written by `make reference` from scikit-learn {version}, whose `all_estimators()` lists {listed}.
{fit} of them are filters, each registered as `sklearn.` and its name.
`plugins/soma-filters-sklearn/tests/test_every_estimator.py` compares each with scikit-learn in the
same process: every output, after its state travelled without pickle where the table has *plain*, in
batches, and with weights. [scikit-learn](../scikit-learn.md) explains their use.

- **answers**: the methods that `output` may name, first the one of `"auto"`. Some depend on the
  estimator's parameters, or on the estimator inside. *Anew* are those that can only answer for the
  samples that they learn from: `forward` learns and answers at once, and `fit` does nothing.
- **batches**: it accumulates under BATCHED_FIT. Others are fitted on each batch anew.
- **weights**: its `fit` takes `sample_weight`, beside the targets as in
  `{{"y": y, "sample_weight": weights}}`. *Inside*: it hands named arguments on to those inside.
- **state**: *plain* travels with `pickle="never"`.
"""
_LEFT_OUT = """\
## What is no filter

| estimator | why |
|---|---|
"""


def page() -> str:
    """The whole page."""
    listed = [name for name, _ in list_estimators()]
    rows = [name for name in listed if name not in LEFT_OUT]
    introduction = _INTRODUCTION.format(
        version=".".join(sklearn.__version__.split(".")[:2]), listed=len(listed), fit=len(rows)
    )
    return "".join([introduction, "\n", *_table(rows), "\n", _LEFT_OUT, *_reasons()])


def _table(names: list[str]) -> Iterator[str]:
    yield "| estimator | answers | batches | weights | state |\n|---|---|---|---|---|\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated
        for name in names:
            yield f"| {' | '.join(_row(name))} |\n"


def _row(name: str) -> list[str]:
    node = getattr(estimators, name)(**sample_of(name).config)
    estimator = node.estimator_with()
    return [
        f"`{name}`",
        _answers(estimator),
        "yes" if hasattr(node, "partial_fit") else "",
        _weights(estimator),
        f"pickle: {PICKLED[name]}" if name in PICKLED else "plain",
    ]


def _answers(estimator: Any) -> str:
    first = automatic(estimator)
    others = [name for name in outputs_of(type(estimator)) if name != first]
    listed = ", ".join(f"`{name}`" for name in (first, *others))
    return f"{listed} (anew)" if first in TRANSDUCTIVE else listed


def _weights(estimator: Any) -> str:
    if automatic(estimator) in TRANSDUCTIVE:
        return ""
    taken = inspect.signature(estimator.fit).parameters
    if "sample_weight" in taken:
        return "yes"
    return "inside" if any(item.kind is item.VAR_KEYWORD for item in taken.values()) else ""


def _reasons() -> Iterator[str]:
    for name, reason in sorted(LEFT_OUT.items()):
        yield f"| `{name}` | {reason} |\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
