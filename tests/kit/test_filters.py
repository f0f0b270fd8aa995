"""Filters that do everything right meet the clauses: one that learns and prepares, one that does
neither."""

from __future__ import annotations

import numpy as np

import soma_core as soma
from soma_core.testing import Echo, FilterConformance

ROWS = np.random.default_rng(3).normal(size=(12, 3))


class Standardize(soma.Filter):
    by: float = 1.0

    def fit(self, x, y=None):
        return {"mean": x.mean(axis=0), "scale": x.std(axis=0)}

    def prepare(self, state):
        return self.by / state["scale"]

    def forward(self, x, state, prepared=None):
        return (x - state["mean"]) * prepared

    def meta(self):
        rows = soma.Schema(dtype="Float64", shape=[soma.Dynamic("batch"), soma.Fixed(3)])
        return super().meta().replace(input_schema=rows, output_schema=rows, rowwise=True)


class TestStandardize(FilterConformance):
    def build(self):
        return Standardize(by=2.0)

    def data(self):
        return ROWS.copy()


class TestEcho(FilterConformance):
    def build(self):
        return Echo()

    def data(self):
        return [1, 2, 3, 4, 5, 6]
