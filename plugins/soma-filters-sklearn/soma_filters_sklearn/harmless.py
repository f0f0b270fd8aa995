"""Harmless: the parameters that a host may set which may send no pickles.

An allow list: a parameter that a later scikit-learn adds is refused until somebody has looked at
what it does and put it here. Any value of those in ``HARMLESS`` that a configuration can hold
computes and does nothing else; of those in ``WITH_VALUES`` only some do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

_ATTRIBUTES = re.compile(r"[a-zA-Z]\w*(\.[a-zA-Z]\w*)*")
_DISPATCHED = re.compile(r"all|(\d+\s*\*\s*)?n_jobs")

SEARCHED = frozenset({"param_distributions", "param_grid"})
"""Parameters whose values say which other parameters are set, and to what."""


PASSED_ON = frozenset(
    {
        "fun_args", "inv_kw_args", "kernel_params", "kw_args", "metric_params",
        "pairwise_kernels_kwargs", "solver_options",
    }
)  # fmt: skip
"""Parameters whose values are arguments of a function, ``n_jobs`` perhaps among them."""

_MOST_JOBS_OF_A_STATE = 1024  # it may come from a larger machine


def _is_attribute(value: Any) -> bool:
    """Public ones only: the others lead from an estimator to all that Python has."""
    return isinstance(value, str) and _ATTRIBUTES.fullmatch(value) is not None


def _is_few(value: Any) -> bool:
    return value is None or (isinstance(value, int) and abs(value) <= (os.cpu_count() or 1))


def _is_some(value: Any) -> bool:
    return value is None or (isinstance(value, int) and abs(value) <= _MOST_JOBS_OF_A_STATE)


def _is_dispatched(value: Any) -> bool:
    """joblib computes what a text says."""
    if isinstance(value, str):
        return _DISPATCHED.fullmatch(value) is not None
    return value is None or isinstance(value, int)


WITH_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "importance_getter": (_is_attribute, "the name of a public attribute"),
    "input": (lambda value: value == "content", "'content', since the others read files"),
    "memory": (lambda value: value is None, "None, since a cache directory holds pickles"),
    "n_jobs": (_is_few, "None or at most the number of CPUs"),
    "pre_dispatch": (_is_dispatched, "a number, 'all' or such as '2*n_jobs'"),
}
"""Parameters of which some values are harmless: whether one is, and what those are."""

HARMLESS_IN_STATES = WITH_VALUES | {
    "n_jobs": (_is_some, f"None or at most {_MOST_JOBS_OF_A_STATE}"),
}
"""The same for the parameters of an estimator that a state holds."""

HARMLESS = frozenset(
    {
        "C", "Cs", "U_init", "V_init", "accept_sparse", "activation", "add_indicator",
        "affinity", "algorithm", "allow_single_cluster", "alpha", "alpha_1", "alpha_2",
        "alpha_H", "alpha_W", "alpha_bounds", "alpha_init", "alpha_per_target", "alphas",
        "alternate_sign", "analyzer", "angle", "assign_labels", "assume_centered", "atol",
        "average", "bandwidth", "batch_size", "beta_1", "beta_2", "beta_loss",
        "bin_seeding", "binarize", "binary", "bisecting_strategy", "block_size",
        "bootstrap", "bootstrap_features", "branching_factor", "breadth_first",
        "break_ties", "cache_size", "callback", "categorical_features", "categories",
        "ccp_alpha", "chain_method", "check_inverse", "class_prior", "class_weight",
        "classes", "clip", "cluster_all", "cluster_method", "cluster_selection_epsilon",
        "cluster_selection_method", "code_init", "code_size", "coef0", "compute_distances",
        "compute_full_tree", "compute_inverse_components", "compute_labels",
        "compute_score", "connectivity", "constant", "constant_value",
        "constant_value_bounds", "contamination", "convergence_iter", "copy", "copy_X",
        "copy_X_train", "copy_x", "covariance", "covariance_estimator", "covariance_prior",
        "covariance_type", "criterion", "cv", "damping", "decision_function_shape",
        "decode_error", "degree", "degrees_of_freedom_prior", "dense_output", "density",
        "dict_init", "dictionary", "direction", "dissimilarity", "distance_threshold",
        "doc_topic_prior", "drop", "dtype", "dtype_exclude", "dtype_include", "dual",
        "early_exaggeration", "early_stopping", "eigen_solver", "eigen_tol", "encode",
        "encoded_missing_value", "encoding", "enet_tol", "ensemble", "eps", "epsilon",
        "error_on_new", "error_score", "estimator", "estimators", "eta0", "evaluate_every",
        "exponent", "extrapolation", "feature_name_combiner", "feature_names_out",
        "feature_range", "features", "fill_value", "final_estimator", "fit_algorithm",
        "fit_intercept", "fit_inverse_transform", "fit_path", "fit_prior",
        "flatten_transform", "force_alpha", "forget_factor", "fresh_restarts",
        "fresh_restarts_max_iter", "fun", "fun_args", "func", "gamma", "gamma_bounds",
        "gap", "gcv_mode", "handle_missing", "handle_unknown", "hessian_tol",
        "hidden_layer_sizes", "ignore_implicit_zeros", "include_bias", "increasing", "init",
        "init_params", "init_size", "input_type", "interaction_cst", "interaction_only",
        "intercept_scaling", "inv_kw_args", "inverse_func", "is_data_valid",
        "is_model_valid", "iterated_power", "jitter", "k", "k1", "k2", "k_best",
        "keep_empty_features", "kernel", "kernel_params", "kernels", "knots", "kw_args",
        "l1_ratio", "l1_ratios", "l2_regularization", "lambda_1", "lambda_2", "lambda_init",
        "leaf_size", "learning_decay", "learning_method", "learning_offset",
        "learning_rate", "learning_rate_init", "length_scale", "length_scale_bounds",
        "link", "linkage", "loss", "lowercase", "max_bins", "max_categories",
        "max_cluster_size", "max_depth", "max_df", "max_doc_update_iter", "max_eps",
        "max_features", "max_fun", "max_iter", "max_iter_predict", "max_leaf_nodes",
        "max_n_alphas", "max_no_improvement", "max_patches", "max_samples", "max_skips",
        "max_subpopulation", "max_train_size", "max_trials", "mean_change_tol",
        "mean_precision_prior", "mean_prior", "means_init", "method", "metric",
        "metric_mds", "metric_params", "min_bin_freq", "min_categories", "min_cluster_size",
        "min_df", "min_features_to_select", "min_frequency", "min_grad_norm",
        "min_impurity_decrease", "min_samples", "min_samples_leaf", "min_samples_split",
        "min_weight_fraction_leaf", "missing_values", "mode", "modified_tol", "momentum",
        "monotonic_cst", "multi_class", "n_bins", "n_clusters", "n_components",
        "n_estimators", "n_features", "n_features_to_select", "n_groups", "n_init",
        "n_iter", "n_iter_no_change", "n_iter_without_progress", "n_knots", "n_neighbors",
        "n_nonzero_coefs", "n_oversamples", "n_quantiles", "n_refinements", "n_repeats",
        "n_restarts_optimizer", "n_splits", "n_subsamples", "n_targets", "neg_label",
        "neighbors_algorithm", "nesterovs_momentum", "ngram_range", "noise_level",
        "noise_level_bounds", "noise_variance", "noise_variance_init", "norm", "norm_order",
        "normalize_y", "normalized_stress", "novelty", "nu", "oob_score", "optimizer",
        "order", "out_of_bounds", "outlier_label", "output_distribution", "p",
        "pairwise_kernels_kwargs", "param", "passthrough", "patch_size", "path_method",
        "pattern", "penalty", "percentile", "periodicity", "periodicity_bounds", "perp_tol",
        "perplexity", "pooling_func", "pos_label", "positive", "positive_code",
        "positive_dict", "power", "power_iteration_normalizer", "power_t",
        "precisions_init", "precompute", "predecessor_correction", "preference", "prefit",
        "preprocessor", "priors", "probability", "quantile", "quantile_method",
        "quantile_range", "radius", "random_state", "reassignment_ratio", "refit", "reg",
        "reg_covar", "reg_param", "regressor", "remainder", "remove_zero_eig",
        "residual_threshold", "response_method", "return_train_score", "ridge_alpha",
        "rotation", "rtol", "sample_interval", "sample_steps", "scale", "score_func",
        "scoring", "seeds", "selection", "separator", "shrink_threshold", "shrinkage",
        "shrinking", "shuffle", "sigma_0", "sigma_0_bounds", "skewedness", "smooth",
        "smooth_idf", "solver", "solver_options", "sort", "sparse", "sparse_output",
        "sparse_threshold", "split_sign", "splitter", "stack_method", "standardize", "step",
        "steps", "stop_n_inliers", "stop_probability", "stop_score", "stop_words",
        "store_centers", "store_covariance", "store_cv_results", "store_precision",
        "strategy", "strip_accents", "sublinear_tf", "subsample", "support_fraction",
        "svd_method", "svd_solver", "target_type", "test_fold", "test_size", "threshold",
        "threshold_lambda", "thresholds", "token_pattern", "tokenizer", "tol",
        "topic_word_prior", "total_samples", "train_size", "transform_algorithm",
        "transform_alpha", "transform_input", "transform_max_iter",
        "transform_n_nonzero_coefs", "transformer", "transformer_list",
        "transformer_weights", "transformers", "unit_variance", "unknown_value", "use_idf",
        "use_legacy_attributes", "validate", "validation_fraction", "var_smoothing",
        "verbose", "verbose_feature_names_out", "verbose_interval", "vocabulary", "voting",
        "w_init", "warm_start", "weight_concentration_prior",
        "weight_concentration_prior_type", "weights", "weights_init", "whiten",
        "whiten_solver", "with_centering", "with_mean", "with_scaling", "with_std", "xi",
        "y_max", "y_min",
    }
)  # fmt: skip
"""Parameters of scikit-learn's estimators, kernels and splitters that compute with any value."""
