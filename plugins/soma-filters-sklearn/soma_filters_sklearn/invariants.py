"""Invariants: what compiled code of scikit-learn takes for granted of what an estimator learned.

numpy looks at every index. scikit-learn's compiled code does not: it follows what it finds in a
fitted estimator, so that other numbers read or write memory that is not its own. Here each
estimator that hands what it learned to such code is checked when it is made of a state: shapes,
ranges and counts against one another, and against what it says of itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from soma_filters_sklearn.checks import check_range, integers, require
from soma_filters_sklearn.compiled import check_features

Check = Callable[[Any, dict[str, Any]], None]

_MOST_THREADS = 1024
_LARGEST = 1e100  # LAPACK has no end with numbers that overflow
_BITS = 256  # of a set of categories of a boosted histogram


def check_fitted(estimator: Any) -> None:
    """Check what an estimator learned.

    Raises:
        ValueError: Something does not fit; the message says what.
    """
    try:
        _check(estimator, vars(estimator))
    except ValueError:
        raise
    except Exception as error:  # what is missing, or is of another kind, fails in any way
        raise ValueError(
            f"the parts of a {type(estimator).__name__} do not fit together ({error!r})"
        ) from error


def _check(estimator: Any, held: dict[str, Any]) -> None:
    check_features(estimator)
    require(not held.get("_in_fit"), "it is not in the middle of fitting")
    require(0 < held.get("_n_threads", 1) <= _MOST_THREADS, "it asks for few threads")
    for base in type(estimator).__mro__:
        check = _CHECKS.get(f"{base.__module__}.{base.__qualname__}")
        if check is not None:
            check(estimator, held)


def shadows(estimator: Any, name: str) -> bool:
    """Whether an attribute of a state would take the place of a method or property."""
    found = getattr(type(estimator), name, None)
    return callable(found) or hasattr(found, "__get__")


def _width(held: dict[str, Any]) -> int:
    width = held.get("n_features_in_")
    counted = isinstance(width, int | np.integer) and int(width) >= 0
    require(counted, "it counts its features")
    return int(held["n_features_in_"])


def _shape(held: dict[str, Any], name: str, *lengths: int | None) -> Any:
    """An array, if it has this shape; None stands for any length."""
    value = held[name]
    fits = isinstance(value, np.ndarray) and value.ndim == len(lengths)
    wanted = " by ".join("any" if length is None else str(length) for length in lengths)
    same = fits and all(
        length in (None, found) for length, found in zip(lengths, value.shape, strict=True)
    )
    require(same, f"{name} is an array of {wanted}")
    return value


def _check_support_vectors(estimator: Any, held: dict[str, Any]) -> None:
    if "support_" not in held:
        return
    support = integers(_shape(held, "support_", None), "support_")
    counts = integers(_shape(held, "_n_support", None), "_n_support")
    vectors, classes = len(support), len(counts)
    require(classes > 1 and bool(np.all(counts >= 0)), "each class has its support vectors")
    if estimator._impl in ("c_svc", "nu_svc"):
        require(int(counts.sum()) == vectors, "the classes have all support vectors")
        require(len(held["classes_"]) == classes, "the classes are those that have vectors")
    else:
        require(classes == 2 and int(counts[0]) == vectors, "it has all support vectors")
    pairs = classes * (classes - 1) // 2
    _shape(held, "_intercept_", pairs)
    _check_probabilities(estimator, held, pairs)
    _check_kernel(estimator, held, support, (classes - 1, vectors))


def _check_probabilities(estimator: Any, held: dict[str, Any], pairs: int) -> None:
    said = held.get("_effective_probability", estimator.probability)  # its own since 1.9
    require(not said or estimator._impl in ("c_svc", "nu_svc"), "only classes have probabilities")
    for name in ("_probA", "_probB"):
        lengths = (pairs,) if said else (0, pairs)
        require(len(_shape(held, name, None)) in lengths, f"{name} is of each pair of classes")
    require(len(held["_probA"]) == len(held["_probB"]), "_probA and _probB belong together")


def _check_kernel(
    estimator: Any, held: dict[str, Any], support: Any, coefficients: tuple[int, int]
) -> None:
    if callable(estimator.kernel):  # it takes what it likes: nobody counts the features
        require(not held.get("_sparse"), "a function takes no sparse vectors")
        _shape(held, "_dual_coef_", *coefficients)
        check_range(support, int(held["shape_fit_"][0]), "support vectors")
        return
    width, vectors = _width(held), held["support_vectors_"]
    if held.get("_sparse"):
        require(vectors.shape == (len(support), width), "there is a vector for each")
        require(held["_dual_coef_"].shape == coefficients, "each vector has its coefficients")
        whole = held["_dual_coef_"].data.size == coefficients[0] * coefficients[1]
        require(whole, "each vector has its coefficients")
        return
    _shape(held, "_dual_coef_", *coefficients)
    if estimator.kernel == "precomputed":
        check_range(support, width, "support vectors")
    else:
        _shape(held, "support_vectors_", len(support), width)


def _check_centers(estimator: Any, held: dict[str, Any]) -> None:
    if "cluster_centers_" not in held:
        return
    centers = _shape(held, "cluster_centers_", None, _width(held))
    require(len(centers) > 0, "there are clusters")
    require(np.isfinite(centers).all(), "clusters lie somewhere")
    if "_counts" in held:
        _shape(held, "_counts", len(centers))


def _check_bisecting(estimator: Any, held: dict[str, Any]) -> None:
    waiting = [held["_bisecting_tree"]] if "_bisecting_tree" in held else []
    while waiting:
        node = waiting.pop()
        _shape(vars(node), "center", _width(held))
        waiting += [each for each in (node.left, node.right) if each is not None]


def _check_components(estimator: Any, held: dict[str, Any]) -> None:
    if "components_" in held:
        count = held.get("_n_components", len(held["components_"]))
        _shape(held, "components_", int(count), _width(held))


def _check_topics(estimator: Any, held: dict[str, Any]) -> None:
    if "components_" not in held:
        return
    for name in ("components_", "exp_dirichlet_component_"):
        _shape(held, name, estimator.n_components, _width(held))


def _check_increments(estimator: Any, held: dict[str, Any]) -> None:
    """What learning goes on with: numbers that have products."""
    for name in ("components_", "mean_", "singular_values_", "var_"):
        if name in held:
            small = bool(np.all(np.abs(held[name]) < _LARGEST))
            require(small, f"{name} can be computed with")


def _check_bins(estimator: Any, held: dict[str, Any]) -> None:
    if "bin_thresholds_" in held:
        count = len(_shape(held, "n_bins_non_missing_", None))
        require(len(held["bin_thresholds_"]) == count, "each feature has its bins")
        _shape(held, "is_categorical_", count)


def _check_linear(estimator: Any, held: dict[str, Any]) -> None:
    """What stochastic gradient descent goes on with."""
    if "coef_" not in held:
        return
    shape: tuple[int, ...] = (_width(held),)
    if "classes_" in held:
        count = len(held["classes_"])
        require(count > 1, "there are classes")
        shape = (1 if count == 2 else count, *shape)
    for name in ("coef_", "_standard_coef", "_average_coef"):
        if held.get(name) is not None:
            _shape(held, name, *shape)
    offsets = ("intercept_", "offset_", "_standard_intercept", "_average_intercept")
    for name in offsets:
        if held.get(name) is not None:
            _shape(held, name, shape[0] if len(shape) > 1 else 1)


def _check_neighbors(estimator: Any, held: dict[str, Any]) -> None:
    if "_fit_X" not in held:
        return
    rows, width = held["_fit_X"].shape
    require(held["n_samples_fit_"] == rows, "it counts its samples")
    require(width == _width(held), "its samples have its features")
    if "classes_" not in held or held.get("outputs_2d_"):
        return
    labels = integers(_shape(held, "_y", rows), "_y")
    check_range(labels, len(held["classes_"]), "classes")


def _check_vocabulary(estimator: Any, held: dict[str, Any]) -> None:
    vocabulary = held.get("vocabulary_")
    if vocabulary is None:
        return
    places = np.array(list(vocabulary.values()), np.int64)
    check_range(places, len(vocabulary), "columns of the vocabulary")


def _check_one_hot(estimator: Any, held: dict[str, Any]) -> None:
    if "categories_" not in held:
        return
    kept = held["_n_features_outs"]
    require(list(kept) == estimator._compute_n_features_outs(), "it counts its outputs")
    dropped = held.get("_drop_idx_after_grouping")
    dropped = [None] * len(kept) if dropped is None else list(dropped)
    require(len(dropped) == len(kept) == len(held["categories_"]), "each feature has its outputs")
    columns = zip(held["categories_"], kept, dropped, strict=True)
    for categories, count, drop in columns:
        _check_categories(categories)
        require(drop is None or 0 <= drop < count + 1, "what is dropped exists")
    if not held.get("_infrequent_enabled"):
        return
    mappings, rare = held["_default_to_infrequent_mappings"], held["_infrequent_indices"]
    require(len(mappings) == len(rare) == len(kept), "each feature maps its categories")
    for mapping, indices, count, drop, categories in zip(
        mappings, rare, kept, dropped, held["categories_"], strict=True
    ):
        if mapping is not None:
            check_range(np.asarray(mapping), count + (drop is not None), "groups of categories")
        if indices is not None:
            check_range(np.asarray(indices), len(categories), "rare categories")


def _check_categories(categories: Any) -> None:
    """Numbers have to be in order, since they are searched for."""
    require(isinstance(categories, np.ndarray) and categories.ndim == 1, "categories are a list")
    if categories.dtype.kind in "iuf":
        known = categories[~np.isnan(categories)]
        at_end = bool(np.all(np.isnan(categories[len(known) :])))
        require(at_end and bool(np.all(known[:-1] <= known[1:])), "categories are in order")


def _check_labels(estimator: Any, held: dict[str, Any]) -> None:
    cached = held.get("_cached_dict")
    if cached is not None:
        check_range(np.array(list(cached.values()), np.int64), len(held["classes_"]), "classes")


def _check_agglomeration(estimator: Any, held: dict[str, Any]) -> None:
    if "labels_" in held:
        labels = integers(_shape(held, "labels_", _width(held)), "labels_")
        check_range(labels, _width(held), "clusters")


def _check_gradient_boosting(estimator: Any, held: dict[str, Any]) -> None:
    if "estimators_" not in held:
        return
    trees = _shape(held, "estimators_", None, held["n_trees_per_iteration_"])
    require(trees.size > 0, "there are trees")
    for tree in trees.ravel().tolist():
        one = tree.tree_.n_outputs == 1 and tree.tree_.max_n_classes == 1
        require(one, "a tree answers one number")
    init = held["init_"]
    alone = init == "zero" if isinstance(init, str) else _is_alone(init)
    require(alone, "init is an estimator of scikit-learn that holds no other and no function")
    for rows in (1, 3):
        begun = estimator._raw_predict_init(np.zeros((rows, _width(held)), np.float32))
        require(begun.shape == (rows, trees.shape[1]), "it begins with a number for each tree")


def _is_alone(estimator: Any) -> bool:
    """Whether it answers each row by itself: a pipeline could return any number of them."""
    held = estimator.get_params(deep=False).values()
    return _path(estimator).startswith("sklearn.") and all(
        isinstance(value, bool | int | float | str | np.ndarray | None) for value in held
    )


def _check_histograms(estimator: Any, held: dict[str, Any]) -> None:
    if "_predictors" not in held:
        return
    width, bins = _width(held), held["_bin_mapper"]
    categorical = _shape(vars(bins), "is_categorical_", width) != 0
    require(len(bins.bin_thresholds_) == width, "each feature has its bins")
    for index in np.flatnonzero(categorical):
        known = np.asarray(bins.bin_thresholds_[index])
        require(known.dtype.kind == "f" and known.ndim == 1, "categories are numbers")
        check_range(known, _BITS, "categories")
    for tree in _trees_of(held["_predictors"]):
        inner = tree.nodes["is_leaf"] == 0
        features = tree.nodes["feature_idx"][inner]
        check_range(features, width, "a tree's features")
        asked = features[tree.nodes["is_categorical"][inner] != 0]
        require(bool(categorical[asked].all()), "a tree asks for categories where there are some")
    _check_remapping(held, width)


def _trees_of(predictors: Any) -> Iterator[Any]:
    for iteration in predictors:
        yield from iteration


def _check_remapping(held: dict[str, Any], width: int) -> None:
    """What brings categories to the front: an encoder for them, and nothing for the others."""
    transformer = held.get("_preprocessor")
    if transformer is None:
        return
    require(_path(transformer).endswith("ColumnTransformer"), "categories are brought to the front")
    (_, encoder, chosen), (_, numbers, others), *rest = transformer.transformers_
    require(all(each[1] == "drop" for each in rest), "nothing else is kept")
    require(_path(encoder).endswith("OrdinalEncoder"), "categories are numbered")
    require(_path(numbers).endswith("FunctionTransformer"), "numbers pass")
    require(getattr(numbers.func, "func", None) is check_array, "numbers pass as they are")
    chosen, others = np.asarray(chosen), np.asarray(others)
    require(chosen.dtype == bool and chosen.shape == (width,), "each feature is one or the other")
    require(bool(np.array_equal(others, ~chosen)), "each feature is one or the other")
    require(len(encoder.categories_) == int(chosen.sum()), "each has its categories")


def _path(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


_CHECKS: dict[str, Check] = {
    "sklearn.cluster._agglomerative.FeatureAgglomeration": _check_agglomeration,
    "sklearn.cluster._bisect_k_means.BisectingKMeans": _check_bisecting,
    "sklearn.cluster._kmeans._BaseKMeans": _check_centers,
    "sklearn.decomposition._incremental_pca.IncrementalPCA": _check_increments,
    "sklearn.decomposition._lda.LatentDirichletAllocation": _check_topics,
    "sklearn.decomposition._nmf._BaseNMF": _check_components,
    "sklearn.ensemble._gb.BaseGradientBoosting": _check_gradient_boosting,
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.BaseHistGradientBoosting": (
        _check_histograms
    ),
    "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper": _check_bins,
    "sklearn.feature_extraction._dict_vectorizer.DictVectorizer": _check_vocabulary,
    "sklearn.feature_extraction.text.CountVectorizer": _check_vocabulary,
    "sklearn.linear_model._stochastic_gradient.BaseSGD": _check_linear,
    "sklearn.neighbors._base.NeighborsBase": _check_neighbors,
    "sklearn.preprocessing._encoders.OneHotEncoder": _check_one_hot,
    "sklearn.preprocessing._label.MultiLabelBinarizer": _check_labels,
    "sklearn.svm._base.BaseLibSVM": _check_support_vectors,
}
"""The checks, by the class or base whose methods hand what was learned to compiled code."""
