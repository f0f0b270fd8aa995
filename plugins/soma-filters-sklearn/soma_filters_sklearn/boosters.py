"""Boosters of LightGBM and XGBoost, spelled as the texts that these packages write of them."""

from __future__ import annotations

import importlib
import json
from typing import Any

from soma_filters_sklearn.checks import require
from soma_filters_sklearn.lightgbm_text import check_text
from soma_filters_sklearn.xgboost_json import check_json, has_categories


def take_lightgbm(booster: Any) -> dict[str, Any]:
    """The text of a booster of LightGBM, and what it does not hold."""
    return {
        "model": booster.model_to_string(num_iteration=-1),
        "params": booster.params,
        "best_iteration": booster.best_iteration,
        "best_score": booster.best_score,
    }


def make_lightgbm(parts: dict[str, Any]) -> Any:
    """The booster of LightGBM that has these parts.

    Raises:
        ValueError: The text is not one of a model.
    """
    width = check_text(parts["model"])
    lightgbm = importlib.import_module("lightgbm")
    booster = lightgbm.Booster(model_str=parts["model"])
    require(booster.num_feature() == width, "the model has its features")
    booster.params = dict(parts["params"])
    booster.best_iteration = int(parts["best_iteration"])
    booster.best_score = parts["best_score"]
    return booster


def take_xgboost(booster: Any) -> dict[str, Any] | None:
    """The JSON of a booster of XGBoost; None if it holds the names of categories."""
    model = bytes(booster.save_raw("json")).decode()
    if has_categories(model):
        return None
    threads = json.loads(booster.save_config())["learner"]["generic_param"]["nthread"]
    return {"model": model, "threads": int(threads)}


def make_xgboost(parts: dict[str, Any]) -> Any:
    """The booster of XGBoost that has these parts.

    Raises:
        ValueError: The JSON is not one of a model.
    """
    check_json(parts["model"])
    xgboost = importlib.import_module("xgboost")
    return xgboost.Booster(
        {"nthread": int(parts["threads"])}, model_file=bytearray(parts["model"].encode())
    )
