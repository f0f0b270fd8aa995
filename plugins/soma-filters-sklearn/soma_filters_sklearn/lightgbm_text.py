"""LightGBM's text of a model, checked before it is read.

LightGBM follows the numbers in that text without looking where they lead. Here every tree is a
tree, every feature and category exists, and every list is as long as the others need.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from soma_filters_sklearn.checks import check_range, check_tree, require

_HEADER = frozenset(
    {
        "average_output", "feature_infos", "feature_names", "label_index", "max_feature_idx",
        "monotone_constraints", "num_class", "num_tree_per_iteration", "objective", "tree",
        "tree_sizes", "version",
    }
)  # fmt: skip
_OF_NODES = (
    "decision_type", "left_child", "right_child", "split_feature", "split_gain", "threshold",
)  # fmt: skip
_OF_NODES_TOO = ("internal_count", "internal_value", "internal_weight")
_OF_LEAVES = ("leaf_count", "leaf_value", "leaf_weight")
_OF_LINEAR = ("leaf_const", "num_features")
_OTHERS = (
    "cat_boundaries", "cat_threshold", "is_linear", "leaf_coeff", "leaf_features", "num_cat",
    "num_leaves", "shrinkage",
)  # fmt: skip
_KNOWN = frozenset({*_OF_NODES, *_OF_NODES_TOO, *_OF_LEAVES, *_OF_LINEAR, *_OTHERS})
_END = b"end of trees"
_CATEGORICAL = 1  # a bit of a decision type


def check_text(text: str) -> int:
    """Check the text of a model of LightGBM; returns how many features it has.

    Raises:
        ValueError: Something in it leads nowhere; the message says what.
    """
    raw = text.encode()
    start, end = raw.find(b"Tree="), raw.find(_END)
    require(end >= 0, "the trees end")
    start = end if start < 0 or start > end else start
    header = _fields(raw[:start], _HEADER)
    width = int(header["max_feature_idx"]) + 1
    require(width > 0, "there are features")
    for name in ("feature_names", "feature_infos"):
        require(len(header[name].split()) == width, f"{name} are those of {width} features")
    trees = list(_split(raw[start:end], _numbers(header.get("tree_sizes", ""), np.int64)))
    _check_classes(header, len(trees))
    for tree in trees:
        _check_tree(_fields(tree, _KNOWN, first="Tree"), width)
    return width


def _check_classes(header: dict[str, str], trees: int) -> None:
    each = int(header["num_tree_per_iteration"])
    require(0 < each == int(header["num_class"]), "each class has a tree in each iteration")
    require(trees % each == 0, "every iteration is whole")
    told = [word for word in header.get("objective", "").split() if word.startswith("num_class:")]
    require(all(int(word.partition(":")[2]) == each for word in told), "the objective has them too")


def _split(raw: bytes, sizes: Any) -> Iterator[bytes]:
    """The texts of the trees; their sizes are what LightGBM cuts them by."""
    require(
        bool(np.all(sizes > 0)) and int(sizes.sum()) <= len(raw), "the sizes are those of trees"
    )
    place = 0
    for size in sizes.tolist():
        tree = raw[place : place + size]
        require(tree.startswith(b"Tree=") and tree.count(b"Tree=") == 1, "each size is of one tree")
        yield tree
        place += size
    require(not raw[place:].strip(), "nothing follows the trees")


def _fields(raw: bytes, known: frozenset[str], first: str = "") -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in raw.decode().splitlines():
        name, _, value = line.partition("=")
        if not line or (first and name == first):
            continue
        require(name in known and name not in fields, f"{name!r} is a field, and comes once")
        fields[name] = value
    return fields


def _numbers(text: str, kind: Any) -> Any:
    return np.array(text.split(), kind)


def _check_tree(fields: dict[str, str], width: int) -> None:
    leaves, sets = int(fields["num_leaves"]), int(fields["num_cat"])
    require(leaves > 0 and sets >= 0, "there are leaves")
    inner = leaves - 1
    for name in _OF_NODES if inner else ():
        _require_length(fields, name, inner)
    for name in (name for name in _OF_NODES_TOO if fields.get(name)):
        _require_length(fields, name, inner)
    for name in (name for name in _OF_LEAVES if fields.get(name) or name == "leaf_value"):
        _require_length(fields, name, leaves)
    if inner:
        _check_nodes(fields, inner, leaves, sets, width)
    if int(fields.get("is_linear", "0")):
        _check_linear(fields, leaves, width)


def _check_nodes(fields: dict[str, str], inner: int, leaves: int, sets: int, width: int) -> None:
    features = _numbers(fields["split_feature"], np.int64)
    check_range(features, width, "a tree's features")
    children = [_numbers(fields[name], np.int64) for name in ("left_child", "right_child")]
    # a leaf is written as the complement of its number; here leaves come after the inner nodes
    left, right = (np.where(each < 0, inner + ~each, each) for each in children)
    for written, child in zip(children, (left, right), strict=True):
        require(bool(np.all(written < inner)), "children exist")
        require(bool(np.all(child < inner + leaves)), "leaves exist")
    check_tree(left, right, inner + leaves)
    decisions = _numbers(fields["decision_type"], np.int64)
    require(bool(np.all((decisions >= 0) & (decisions < 128))), "decisions are of known types")
    thresholds = _numbers(fields["threshold"], np.float64)
    chosen = thresholds[(decisions & _CATEGORICAL) != 0]
    check_range(chosen, sets, "a tree's categories")
    if sets:
        _check_sets(fields, sets)
    else:
        require(len(chosen) == 0, "a tree without categories asks for none")


def _check_sets(fields: dict[str, str], sets: int) -> None:
    bounds = _numbers(fields["cat_boundaries"], np.int64)
    words = _numbers(fields["cat_threshold"], np.uint32)
    require(len(bounds) == sets + 1 and bounds[0] == 0, "each set of categories has bounds")
    require(bool(np.all(np.diff(bounds) >= 0)), "the bounds are in order")
    require(int(bounds[-1]) == len(words), "the bounds are those of the sets")


def _check_linear(fields: dict[str, str], leaves: int, width: int) -> None:
    for name in _OF_LINEAR:
        _require_length(fields, name, leaves)
    counts = _numbers(fields["num_features"], np.int64)
    features = _numbers(fields["leaf_features"], np.int64)
    require(bool(np.all(counts >= 0)), "leaves count their features")
    require(int(counts.sum()) == len(features), "leaves have as many features as they say")
    require(len(features) == len(fields["leaf_coeff"].split()), "each has a coefficient")
    check_range(features, width, "the features of leaves")


def _require_length(fields: dict[str, str], name: str, length: int) -> None:
    require(len(fields.get(name, "").split()) == length, f"{name} holds {length} numbers")
