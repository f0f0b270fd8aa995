"""The page on scikit-learn's estimators is what the installed release has."""

from __future__ import annotations

import pytest

sklearn = pytest.importorskip("sklearn")
catalogue = pytest.importorskip("soma_filters_sklearn.catalogue")


def test_the_page_on_estimators_is_what_scikit_learn_lists() -> None:
    from tools import sklearn_estimators

    if not sklearn.__version__.startswith(f"{catalogue.WRITTEN_FOR}."):
        pytest.skip(f"the page is on scikit-learn {catalogue.WRITTEN_FOR}")
    written = sklearn_estimators.PAGE.read_text()
    assert written == sklearn_estimators.page(), "run `make reference`"
