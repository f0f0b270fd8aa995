"""Any estimator: ``sklearn.Estimator``, a filter over whatever class an import path leads to."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from soma_filters_sklearn.filters import SklearnFilter
from soma_filters_sklearn.spelling import NotSpelled, build, is_spelling, plain, spell_object


class Estimator(SklearnFilter):
    """An estimator that scikit-learn does not list: of another package, or your own.

    Attributes:
        estimator: The import path of its class, ``"lightgbm.LGBMClassifier"``; the path and its
            parameters, ``["lightgbm.LGBMClassifier", {"num_leaves": 7}]``; from Python also an
            estimator.
        classes: All the classes, for a classifier that learns in batches.
    """

    estimator: Any
    classes: list[Any] | None = None

    @field_validator("estimator", mode="before")
    @classmethod
    def _spell(cls, value: Any) -> Any:
        found = [value, {}] if isinstance(value, str) else plain(value)
        if not is_spelling(found) and not hasattr(found, "get_params"):
            raise ValueError(
                f"an estimator is the path of a class, [path, parameters] or an estimator; "
                f"got {value!r}"
            )
        return found

    @property
    def pickled_because(self) -> str:
        """What of the estimator has no form in plain data; empty if all has."""
        if self.learned is not None:
            return f"{self._title()} is fitted; load it unfitted, and send state_of(…) with calls"
        if is_spelling(self.estimator):
            return ""
        try:
            spell_object(self.estimator)
        except NotSpelled as error:
            return str(error)
        return ""

    def _title(self) -> str:
        path = self.estimator[0] if is_spelling(self.estimator) else type(self.estimator).__name__
        return f"the estimator {path}"

    def _new_estimator(self) -> Any:
        return build(self.estimator)
