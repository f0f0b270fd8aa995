"""XGBoost's JSON of a model, checked before it is read.

XGBoost follows the numbers in it without looking where all of them lead. Here every tree is a tree,
every feature and category exists, and every list is as long as the others need.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from soma_filters_sklearn.checks import check_range, check_tree, require

_SIZES = ("num_feature", "num_class", "num_target")
_OF_NODES = (
    "default_left", "left_children", "loss_changes", "parents", "right_children",
    "split_conditions", "split_indices", "split_type", "sum_hessian",
)  # fmt: skip
_LEAF = -1
_CATEGORICAL = 1
_MOST_CATEGORIES = 2**24


def check_json(text: str) -> None:
    """Check the JSON of a model of XGBoost.

    Raises:
        ValueError: Something in it leads nowhere; the message says what.
    """
    learner = json.loads(text)["learner"]
    sizes = {name: int(learner["learner_model_param"][name]) for name in _SIZES}
    width, groups = sizes["num_feature"], max(sizes["num_class"], sizes["num_target"], 1)
    require(width >= 0 and min(sizes.values()) >= 0, "there are features, classes and targets")
    for name in ("feature_names", "feature_types"):
        require(len(learner[name]) in (0, width), f"{name} are those of {width} features")
    _check_objective(learner["objective"], sizes)
    base = json.loads(str(learner["learner_model_param"]["base_score"]))
    require(not isinstance(base, list) or len(base) in (1, groups), "each output begins somewhere")
    _check_booster(learner["gradient_booster"], width, groups)


def has_categories(text: str) -> bool:
    """Whether a model holds the names of categories, which are not checked here."""
    booster = json.loads(text)["learner"]["gradient_booster"]
    model = booster.get("gbtree", booster)["model"]
    return bool(model.get("cats", {}).get("enc"))


def _check_objective(objective: dict[str, Any], sizes: dict[str, int]) -> None:
    multiclass = objective.get("softmax_multiclass_param", {"num_class": sizes["num_class"]})
    require(int(multiclass["num_class"]) == sizes["num_class"], "the objective has these classes")
    require(
        ("softmax_multiclass_param" in objective) == objective["name"].startswith("multi:"),
        "an objective of several classes says how many",
    )


def _check_booster(booster: dict[str, Any], width: int, groups: int) -> None:
    if booster["name"] == "gblinear":
        weights = booster["model"]["weights"]
        require(len(weights) == (width + 1) * groups, "each feature has a weight in each output")
        return
    require(booster["name"] in ("gbtree", "dart"), "the booster is gbtree, dart or gblinear")
    model = booster["gbtree"]["model"] if booster["name"] == "dart" else booster["model"]
    trees = model["trees"]
    require(not model.get("cats", {}).get("enc"), "categories have no names")
    require(int(model["gbtree_model_param"]["num_trees"]) == len(trees), "it says how many trees")
    if booster["name"] == "dart":
        require(len(booster["weight_drop"]) == len(trees), "each tree has a weight")
    outputs = np.array(model["tree_info"], np.int64)
    require(len(outputs) == len(trees), "each tree has an output")
    check_range(outputs, groups, "the outputs of trees")
    ends = np.array(model["iteration_indptr"], np.int64)
    require(len(ends) > 0 and ends[0] == 0 and ends[-1] == len(trees), "iterations hold all trees")
    require(bool(np.all(np.diff(ends) >= 0)), "iterations are in order")
    for index, tree in enumerate(trees):
        require(tree["id"] == index, "trees are numbered in order")
        _check_tree(tree, width, groups)


def _check_tree(tree: dict[str, Any], width: int, groups: int) -> None:
    sizes = {name: int(value) for name, value in tree["tree_param"].items()}
    count, outputs = sizes["num_nodes"], sizes["size_leaf_vector"]
    require(count > 0 and sizes["num_feature"] == width, "trees have nodes and these features")
    require(outputs in (0, 1, groups), "leaves have one value, or one for each output")
    for name in _OF_NODES:
        require(len(tree[name]) == count, f"{name} are those of {count} nodes")
    names = ("left_children", "right_children", "split_indices")
    left, right, features = (np.array(tree[name], np.int64) for name in names)
    inner = left != _LEAF
    check_tree(left[inner], right[inner], count)
    check_range(features, max(width, 1), "a tree's features")
    leaves = right[~inner]
    if outputs > 1:
        held = len(tree.get("leaf_weights", ()))
        require(len(tree["base_weights"]) == count * outputs, "nodes have a value for each output")
        require(bool(np.all((leaves >= 0) & (leaves * outputs < held))), "values of leaves exist")
        require(held % outputs == 0, "values of leaves are whole")
    else:
        require(len(tree["base_weights"]) == count, "nodes have a value")
        require(bool(np.all(leaves == _LEAF)), "leaves have no child")
    _check_categories(tree, inner, count)


def _check_categories(tree: dict[str, Any], inner: Any, count: int) -> None:
    kinds = np.array(tree["split_type"], np.int64)
    require(bool(np.all((kinds == 0) | (kinds == _CATEGORICAL))), "splits are of known types")
    nodes, starts, sizes = (
        np.array(tree[f"categories_{name}"], np.int64) for name in ("nodes", "segments", "sizes")
    )
    categories = np.array(tree["categories"], np.int64)
    require(len(nodes) == len(starts) == len(sizes), "each split by categories has a set")
    require(
        nodes.tolist() == np.flatnonzero((kinds == _CATEGORICAL) & inner).tolist(),
        "sets are those of the splits by categories",
    )
    check_range(categories, _MOST_CATEGORIES, "categories")
    require(bool(np.all((starts >= 0) & (sizes > 0))), "sets hold something")
    ends = np.cumsum(sizes)
    require(bool(np.all(starts == ends - sizes)), "sets follow one another")
    require(int(ends[-1] if len(ends) else 0) == len(categories), "sets hold all categories")
