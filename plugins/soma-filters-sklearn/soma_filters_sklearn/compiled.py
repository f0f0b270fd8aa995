"""Compiled: trees, losses and the like, spelled by what they are made of and checked when read.

scikit-learn follows the numbers in a tree without looking where they lead, so that a state with
other numbers could read memory that is not its own. Here a tree is built only if every number leads
to a node, a feature or a set that exists. A search tree is built anew from its points.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.recfunctions import repack_fields

from soma_filters_sklearn.boosters import (
    make_lightgbm,
    make_xgboost,
    take_lightgbm,
    take_xgboost,
)
from soma_filters_sklearn.checks import check_range, require

_LEAF = -1
_OUTPUTS_OF_LEAF = 3  # axes of the values of a tree: nodes, outputs, classes
_HIST = "sklearn.ensemble._hist_gradient_boosting"
_DISTANCES = "sklearn.metrics._dist_metrics"
_GENERATORS = frozenset({"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"})

_MADE = frozenset(
    {
        *(f"sklearn._loss._loss.Cy{name}" for name in (
            "AbsoluteError", "ExponentialLoss", "HalfBinomialLoss", "HalfGammaLoss",
            "HalfMultinomialLoss", "HalfPoissonLoss", "HalfSquaredError", "HalfTweedieLoss",
            "HalfTweedieLossIdentity", "HuberLoss", "PinballLoss",
        )),
        *(f"sklearn.linear_model._sgd_fast.{name}" for name in (
            "EpsilonInsensitive", "Hinge", "ModifiedHuber", "SquaredEpsilonInsensitive",
            "SquaredHinge",
        )),
        "builtins.slice",
    }
)  # fmt: skip
"""Classes that ``__reduce__`` to themselves and plain arguments, which is all that they are."""

_PLAIN = frozenset(
    {
        *(f"sklearn._loss.link.{name}" for name in (
            "HalfLogitLink", "IdentityLink", "LogLink", "LogitLink", "MultinomialLogit", "Interval",
        )),
        *(f"sklearn._loss.loss.{name}" for name in (
            "AbsoluteError", "ExponentialLoss", "HalfBinomialLoss", "HalfGammaLoss",
            "HalfMultinomialLoss", "HalfPoissonLoss", "HalfSquaredError", "HalfTweedieLoss",
            "HalfTweedieLossIdentity", "HuberLoss", "PinballLoss",
        )),
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.cluster._bisect_k_means._BisectingTree",
        "sklearn.metrics._scorer._CurveScorer",
        "sklearn.metrics._scorer._PassthroughScorer",
        "sklearn.metrics._scorer._Scorer",
        "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
        "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
        "sklearn.utils._metadata_requests.MetadataRequest",
        "sklearn.utils._metadata_requests.MethodMetadataRequest",
    }
)  # fmt: skip
"""Classes written in Python that are nothing but their attributes."""


class Spelling(NamedTuple):
    """How objects of some classes are spelled.

    Attributes:
        tag: What the spelling is called.
        take: From an object to its parts, by name; None if this one has no spelling.
        make: From the parts to an object; it raises ValueError where they do not fit together.
    """

    tag: str
    take: Callable[[Any], dict[str, Any] | None]
    make: Callable[[dict[str, Any]], Any]


def spelling_of(value: Any) -> Spelling | None:
    """How an object is spelled; None if it is none of those that are."""
    return _BY_CLASS.get(_path(type(value)))


def check_features(estimator: Any) -> None:
    """Check that the trees of an estimator look at no feature that its data lack.

    Raises:
        ValueError: One does.
    """
    held = vars(estimator)
    width = getattr(estimator, "n_features_in_", None)
    if _is_tree(held.get("tree_")):
        require(held["tree_"].n_features == width, "a tree has as many features as data")
    # LightGBM's; XGBoost's tells its own.
    if held.get("_Booster") is not None and "_n_features_in" in held:
        same = held["_Booster"].num_feature() == held["_n_features_in"]
        require(same, "a booster has as many features as data")
    for tree in _flat(held.get("_predictors", [])):
        require(bool(np.all(tree.nodes["feature_idx"] < width)), "a tree's features exist")
    inner = [each for each in _flat(held.get("estimators_", [])) if _holds_tree(each)]
    if not inner:
        return
    width = inner[0].n_features_in_ if width is None else width
    subsets = held.get("estimators_features_") or [np.arange(width)] * len(inner)
    for each, features in zip(inner, map(np.asarray, subsets), strict=True):
        check_range(features, width, "a tree's features")
        require(len(features) == each.n_features_in_, "a tree has as many features as data")


def _is_tree(value: Any) -> bool:
    return hasattr(value, "n_features") and hasattr(value, "apply")


def _holds_tree(estimator: Any) -> bool:
    return _is_tree(getattr(estimator, "__dict__", {}).get("tree_"))


def _flat(nested: Any) -> list[Any]:
    """What a list, or a list of lists, or an array of objects holds."""
    items = nested.ravel().tolist() if isinstance(nested, np.ndarray) else nested
    return [each for item in items for each in (item if isinstance(item, list) else [item])]


def _path(kind: type) -> str:
    """Where a class is found; scikit-learn before 1.9 compiled some losses under a short name."""
    home = "sklearn._loss._loss" if kind.__module__ == "_loss" else kind.__module__
    return f"{home}.{kind.__qualname__}"


def _class_in(path: str, allowed: frozenset[str]) -> Any:
    if path not in allowed:
        raise ValueError(f"{path!r} is no class that a state may hold")
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _take_tree(tree: Any) -> dict[str, Any]:
    """The parts of a tree; without the bytes between its fields, which are left to chance."""
    _, (n_features, n_classes, n_outputs), state = tree.__reduce__()
    sizes = {"n_features": n_features, "n_classes": n_classes, "n_outputs": n_outputs}
    return {**sizes, **state, "nodes": repack_fields(state["nodes"])}


def _make_tree(parts: dict[str, Any]) -> Any:
    from sklearn.tree._tree import NODE_DTYPE, Tree

    sizes = (parts.pop("n_features"), parts.pop("n_classes"), parts.pop("n_outputs"))
    n_features, n_classes, n_outputs = sizes
    nodes, values, count = parts["nodes"], parts["values"], parts["node_count"]
    require(nodes.dtype == repack_fields(NODE_DTYPE), "nodes are nodes")
    require(nodes.shape == (count,) and count > 0, "there are nodes")
    inner = nodes["left_child"] != _LEAF
    _check_children(nodes["left_child"][inner], nodes["right_child"][inner], inner, count)
    require(bool(np.all(nodes["right_child"][~inner] == _LEAF)), "leaves have no child")
    features = nodes["feature"][inner]
    check_range(features, n_features, "a tree's features")
    require(n_classes.shape == (n_outputs,), "each output has its classes")
    require(values.ndim == _OUTPUTS_OF_LEAF, "values are of nodes, outputs and classes")
    aligned = np.zeros(count, NODE_DTYPE)
    for name in NODE_DTYPE.names:
        aligned[name] = nodes[name]
    tree = Tree(*sizes)
    tree.__setstate__({**parts, "nodes": aligned})  # which checks the shape of the values
    return tree


def _check_children(left: Any, right: Any, inner: Any, count: int) -> None:
    """Check that children come after their parents, so that no walk leaves a tree or is endless."""
    parents = np.flatnonzero(inner)
    for children in (left, right):
        children = children.astype(np.int64)
        require(bool(np.all((children > parents) & (children < count))), "children exist")


def _take_predictor(predictor: Any) -> dict[str, Any]:
    return dict(vars(predictor))


def _make_predictor(parts: dict[str, Any]) -> Any:
    common = importlib.import_module(f"{_HIST}.common")
    kind = importlib.import_module(f"{_HIST}.predictor").TreePredictor
    nodes = parts["nodes"]
    require(nodes.dtype == common.PREDICTOR_RECORD_DTYPE, "nodes are nodes")
    require(nodes.ndim == 1 and len(nodes) > 0, "there are nodes")
    inner = nodes["is_leaf"] == 0
    _check_children(nodes["left"][inner], nodes["right"][inner], inner, len(nodes))
    require(bool(np.all(nodes["feature_idx"][inner] >= 0)), "a tree's features exist")
    chosen = nodes["bitset_idx"][inner & (nodes["is_categorical"] != 0)]
    for name in ("binned_left_cat_bitsets", "raw_left_cat_bitsets"):
        sets = parts[name]
        require(sets.dtype == np.uint32 and sets.shape[1:] == (8,), "sets have 256 bits")
        require(bool(np.all(chosen < len(sets))), "a tree's sets exist")
    return kind(**parts)


def _take_neighbors(tree: Any) -> dict[str, Any] | None:
    """The points of a search tree; None if its distance cannot be named."""
    names = importlib.import_module(_DISTANCES).METRIC_MAPPING64
    state = tree.__getstate__()
    distance, weights = state[-2], state[-1]
    name = next((name for name, kind in names.items() if kind is type(distance)), None)
    if name in (None, "pyfunc"):
        return None
    power, vector, matrix = distance.__getstate__()
    if np.any(vector) or np.any(matrix):
        return None
    arguments = {"p": power} if name == "minkowski" else {}
    return {
        "class": _path(type(tree)),
        "points": np.asarray(state[0]),
        "leaf_size": int(state[4]),
        "metric": name,
        "arguments": arguments,
        "weights": None if weights is None else np.asarray(weights),
    }


def _make_neighbors(parts: dict[str, Any]) -> Any:
    kind = _class_in(parts["class"], _NEIGHBORS)
    names = importlib.import_module(_DISTANCES).METRIC_MAPPING64
    known = parts["metric"] in names.keys() - {"pyfunc"} and parts["arguments"].keys() <= {"p"}
    require(known, "its distance is known")
    return kind(
        parts["points"],
        leaf_size=parts["leaf_size"],
        metric=parts["metric"],
        sample_weight=parts["weights"],
        **parts["arguments"],
    )


def _take_made(value: Any) -> dict[str, Any] | None:
    """The arguments of a class; None if it does not say that these are all that it needs."""
    maker, arguments, *state = value.__reduce__()
    if maker is not type(value):  # what Cython writes by itself ends in the attributes
        attributes = state[0] if state else arguments[-1]
        if attributes != ():
            return None
        arguments = ()
    return {"class": _path(type(value)), "arguments": arguments}


def _make_made(parts: dict[str, Any]) -> Any:
    return _class_in(parts["class"], _MADE)(*parts["arguments"])


def _take_plain(value: Any) -> dict[str, Any]:
    return {"class": _path(type(value)), "attributes": dict(vars(value))}


def _make_plain(parts: dict[str, Any]) -> Any:
    kind = _class_in(parts["class"], _PLAIN)
    made = kind.__new__(kind)
    vars(made).update(parts["attributes"])
    return made


def _take_spline(spline: Any) -> dict[str, Any]:
    names = {"knots": "t", "coefficients": "c", "degree": "k"}
    parts = {name: getattr(spline, held) for name, held in names.items()}
    return {**parts, "extrapolate": spline.extrapolate, "axis": spline.axis}


def _make_spline(parts: dict[str, Any]) -> Any:
    from scipy.interpolate import BSpline

    shape = parts["knots"], parts["coefficients"], parts["degree"]
    return BSpline(*shape, extrapolate=parts["extrapolate"], axis=parts["axis"])


def _take_generator(generator: Any) -> dict[str, Any] | None:
    state = generator.bit_generator.state
    return {"state": state} if state["bit_generator"] in _GENERATORS else None


def _make_generator(parts: dict[str, Any]) -> Any:
    name = parts["state"]["bit_generator"]
    require(name in _GENERATORS, f"{name!r} is one of numpy's generators")
    check_generator(parts["state"])
    source = getattr(np.random, name)()
    source.state = parts["state"]
    return np.random.Generator(source)


def check_generator(state: dict[str, Any]) -> None:
    """Check where a generator goes on in the numbers that it has ready.

    Raises:
        ValueError: It is none of them.
    """
    ready = {"MT19937": "pos", "Philox": "buffer_pos"}.get(state["bit_generator"])
    if ready is None:
        return
    holder = state["state"] if ready == "pos" else state
    numbers = holder["key"] if ready == "pos" else state["buffer"]
    require(0 <= holder[ready] <= len(numbers), "a generator goes on where it has numbers")


def _take_partial(value: Any) -> dict[str, Any]:
    return {"function": value.func, "arguments": value.args, "named": value.keywords}


def _make_partial(parts: dict[str, Any]) -> Any:
    return functools.partial(parts["function"], *parts["arguments"], **parts["named"])


_NEIGHBORS = frozenset(
    {"sklearn.neighbors._kd_tree.KDTree", "sklearn.neighbors._ball_tree.BallTree"}
)

_CLASSES: tuple[tuple[Spelling, Iterable[str]], ...] = (
    (Spelling("tree", _take_tree, _make_tree), ["sklearn.tree._tree.Tree"]),
    (
        Spelling("histogram_tree", _take_predictor, _make_predictor),
        [f"{_HIST}.predictor.TreePredictor"],
    ),
    (Spelling("neighbors", _take_neighbors, _make_neighbors), _NEIGHBORS),
    (Spelling("made", _take_made, _make_made), _MADE),
    (Spelling("plain", _take_plain, _make_plain), _PLAIN),
    (Spelling("spline", _take_spline, _make_spline), ["scipy.interpolate._bsplines.BSpline"]),
    (Spelling("lightgbm", take_lightgbm, make_lightgbm), ["lightgbm.basic.Booster"]),
    (Spelling("xgboost", take_xgboost, make_xgboost), ["xgboost.core.Booster"]),
    (Spelling("partial", _take_partial, _make_partial), ["functools.partial"]),
    (
        Spelling("generator", _take_generator, _make_generator),
        ["numpy.random._generator.Generator"],
    ),
)
_BY_CLASS = {path: spelling for spelling, paths in _CLASSES for path in paths}

SPELLINGS = {spelling.tag: spelling for spelling, _ in _CLASSES}
"""The spellings by their tags."""
