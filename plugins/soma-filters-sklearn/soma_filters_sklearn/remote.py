"""RemoteEstimator: a node of an estimator, as an estimator of scikit-learn itself."""

from __future__ import annotations

import pickle
import uuid
from collections import deque
from functools import cache, partial, wraps
from inspect import BoundArguments, signature
from typing import TYPE_CHECKING, Any, ClassVar, Self
from weakref import WeakKeyDictionary, finalize

from pydantic import PrivateAttr, ValidationError
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags

import soma_core as soma
from soma_filters_sklearn.adapting import as_estimator, as_filter, without_defaults
from soma_filters_sklearn.state import restore

_BESIDE: dict[str, Any] = {
    "output": "auto",
    "transform_output": "default",
    "metadata_routing": False,
    "ignore": [],
    "classes": None,
}
"""The fields of a filter that are no parameters of its estimator, with their defaults."""


class _Clones:
    """The nodes of one worker that were loaded for clones, and are to be unloaded."""

    def __init__(self) -> None:
        self.key = uuid.uuid4().hex
        self._gone: deque[str] = deque()

    def forget(self, node_id: str) -> None:
        """A clone is gone. The garbage collector calls this, and it may not call a worker."""
        self._gone.append(node_id)

    def unload(self, worker: Any) -> None:
        """Unload the nodes of clones that are gone."""
        gone = {self._gone.popleft() for _ in range(len(self._gone))} & set(worker.node_ids)
        if gone:
            worker.unload(gone)


_CLONES: WeakKeyDictionary[Any, _Clones] = WeakKeyDictionary()
"""By worker; a copy that is unpickled finds the worker by the key of its clones."""


class _Remote:
    """A method of the estimator: it is missing where the estimator's own is, and looks like it.

    Args:
        runs: The method of the RemoteEstimator that is called, with the name and the arguments.
    """

    def __init__(self, runs: str) -> None:
        self._runs = runs

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, remote: RemoteEstimator | None, owner: type) -> Any:
        if remote is None:
            return self
        own = getattr(remote._estimator, self._name)
        run = getattr(remote, self._runs)

        @wraps(own)
        def method(*args: Any, **named: Any) -> Any:
            return run(self._name, signature(own).bind(*args, **named))

        return method


class RemoteEstimator(soma.RemoteFilter):
    """An estimator that learns and answers in a worker: what ``worker.filter(node_id)`` returns.

    Parameters, tags and what it learned are at hand here; the work is done there. ``fit`` returns
    the estimator itself. A clone has a node of its own in the same worker, which is unloaded when
    the clone is gone. A question about more than samples, such as ``predict(X, return_std=True)``,
    is answered here.

    A pickle holds what it learned, and no worker. A copy in the process that made it goes on in
    the same worker; elsewhere :meth:`on` gives it one. What the node learns by other calls of the
    worker is not seen here: ask ``worker.filter`` again.
    """

    _worker: Any = PrivateAttr(default=None)
    _estimator: Any = PrivateAttr(default=None)
    _beside: dict[str, Any] = PrivateAttr(default_factory=dict)
    _loaded: Any = PrivateAttr(default=None)
    _changed: bool = PrivateAttr(default=True)
    _state: Any = PrivateAttr(default=None)
    _fetched: Any = PrivateAttr(default=None)

    fit: ClassVar[Any] = _Remote("_fit")
    partial_fit: ClassVar[Any] = _Remote("_partial_fit")
    score: ClassVar[Any] = _Remote("_ask")
    predict: ClassVar[Any] = _Remote("_ask")
    predict_proba: ClassVar[Any] = _Remote("_ask")
    predict_log_proba: ClassVar[Any] = _Remote("_ask")
    decision_function: ClassVar[Any] = _Remote("_ask")
    score_samples: ClassVar[Any] = _Remote("_ask")
    transform: ClassVar[Any] = _Remote("_ask")
    inverse_transform: ClassVar[Any] = _Remote("_ask")
    fit_transform: ClassVar[Any] = _Remote("_fit_transform")
    fit_predict: ClassVar[Any] = _Remote("_fit_predict")
    set_output: ClassVar[Any] = _Remote("_set_output")

    def __init__(self) -> None:  # scikit-learn looks for parameters in the signature
        super().__init__()

    @classmethod
    def _made(
        cls, worker: Any, node_id: str, estimator: Any, beside: dict[str, Any], state: Any
    ) -> Self:
        remote = cls()
        remote._worker, remote._node_id = worker, node_id
        remote._estimator, remote._beside, remote._state = estimator, beside, state
        return remote

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters of the estimator, as its own ``get_params`` gives them."""
        return {} if self._estimator is None else dict(self._estimator.get_params(deep=deep))

    def set_params(self, **params: Any) -> Self:
        """Set parameters of the estimator; the worker is told at the next call."""
        if params:
            self._estimator.set_params(**params)
            self._changed, self._fetched = True, None
        return self

    def forward(self, x: Any, state: Any = None) -> Any:
        """Run the node. What ``fit`` returned, or None, stands for what the node learned."""
        worker = self._ready(self._changed)
        return worker.forward(self.node_id, x, None if state is self else state)

    def fetch(self) -> Any:
        """The estimator itself, with what it learned, to be used here without a worker."""
        estimator = clone(self._estimator)
        if self._state is not None:
            restore(estimator, self._state)
        return estimator

    def on(self, worker: soma.Worker) -> Self:
        """The same estimator, with what it learned, in another worker."""
        return self._copied(worker, self._state)

    def meta(self) -> soma.FilterMeta:
        """What is known of the node."""
        self._ready(self._changed)
        metas: dict[str, soma.FilterMeta] = self._worker.metas
        return metas[self.node_id]

    def __sklearn_clone__(self) -> Self:
        return self._copied(self._worker, None)

    def __sklearn_is_fitted__(self) -> bool:
        return self._state is not None or not get_tags(self._estimator).requires_fit

    def __sklearn_tags__(self) -> Any:
        return get_tags(self._estimator)

    def __reduce__(self) -> Any:
        key = None if self._worker is None else _clones_of(self._worker).key
        parts = (self._estimator, self._beside, self._state)
        return _unpickled, (key, self._node_id, *parts)

    def __copy__(self) -> Self:
        return self._copied(self._worker, self._state)

    def __deepcopy__(self, memo: Any = None) -> Self:
        return self.__copy__()

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<remote {self._estimator!r} as {self._node_id!r}>"

    __str__ = __repr__

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name.startswith("_"):
                return super().__getattr__(name)
            if name in self.get_params(deep=False) or name == "get_metadata_routing":
                return getattr(self._estimator, name)
            if name.startswith("set_") and name.endswith("_request"):
                return partial(self._set_request, getattr(self._estimator, name))
            if self._state is None or not (name.endswith("_") or name == "get_feature_names_out"):
                raise AttributeError(
                    f"a remote {type(self._estimator).__name__} has no attribute {name!r}; what "
                    "it learned is there after fit, and fetch() gives the estimator itself"
                )
            return getattr(self._here(), name)

        def __setattr__(self, name, value):
            if name in self.__private_attributes__:
                super().__setattr__(name, value)
            elif name in self.get_params(deep=False):
                self.set_params(**{name: value})
            else:  # scikit-learn notes things on estimators: requests for metadata, callbacks
                object.__setattr__(self, name, value)

        def __delattr__(self, name):
            object.__delattr__(self, name)

    def _copied(self, worker: Any, state: Any) -> Self:
        """Another one of the same parameters, with a node of its own."""
        node_id = f"{self._node_id.partition('~')[0]}~{uuid.uuid4().hex[:8]}"
        made = self._made(worker, node_id, clone(self._estimator), dict(self._beside), state)
        if worker is not None:
            finalize(made, _clones_of(worker).forget, node_id)
        return made

    def _ready(self, look: bool) -> Any:
        """The worker, which holds the node with these parameters and what it learned.

        Args:
            look: Whether parameters may have changed, in nested estimators too.
        """
        if self._worker is None:
            raise RuntimeError(
                f"{self!r} was pickled in another process and has no worker here: give it one by "
                "on(worker), or take the estimator itself by fetch(); for several jobs of joblib "
                'use threads, as in joblib.parallel_config(backend="threading")'
            )
        if not look:
            return self._worker
        wanted = as_filter(self._estimator, **self._beside)
        if not isinstance(wanted, tuple) or wanted != self._loaded:
            _clones_of(self._worker).unload(self._worker)
            self._worker.load({self.node_id: wanted})
            if self._state is not None:
                learned = soma.NodeState(data=None, format="value", fit_state=self._state)
                self._worker.set_state(self.node_id, learned)
        self._loaded, self._changed = wanted, False
        return self._worker

    def _fit(self, _: str, given: BoundArguments) -> Self:
        self._state = self._ready(look=True).fit(self.node_id, *_samples_and_targets(given))
        self._fetched = None
        return self

    def _partial_fit(self, _: str, given: BoundArguments) -> Self:
        worker = self._ready(look=True)
        self._state = worker.partial_fit(self.node_id, *_samples_and_targets(given))
        self._fetched = None
        return self

    def _fit_transform(self, name: str, given: BoundArguments) -> Any:
        samples, targets = _samples_and_targets(given)
        transform = getattr(self._fit(name, given), "transform", None)
        if transform is None:  # it knows the samples that it learned from alone, as TSNE does
            return self._here().embedding_
        pairs = any(each in signature(transform).parameters for each in ("y", "Y"))
        return transform(samples, targets) if pairs else transform(samples)

    def _fit_predict(self, name: str, given: BoundArguments) -> Any:
        self._fit(name, given)
        if hasattr(self, "labels_"):
            return self.labels_
        samples = _samples_and_targets(given)[0]
        return self.predict(samples) if hasattr(self, "predict") else self.forward(samples)

    def _ask(self, name: str, given: BoundArguments) -> Any:
        worker = self._answering()
        samples, targets = _samples_and_targets(given)
        if targets is not None and name != "score":  # no command says as much
            return getattr(self._here(), name)(*given.args, **given.kwargs)
        return worker.call_method(name, self.node_id, samples, targets)

    def _here(self) -> Any:
        """What :meth:`fetch` returns, kept."""
        if self._fetched is None:
            self._fetched = self.fetch()
        return self._fetched

    def _answering(self) -> Any:
        """The worker, of a node that can answer.

        Raises:
            NotFittedError: It has learned nothing.
        """
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"this remote {type(self._estimator).__name__} is not fitted yet: call fit first"
            )
        return self._ready(self._changed)

    def _set_request(self, request: Any, **requested: Any) -> Self:
        """Note which metadata a method of the estimator is to be given; fitting needs no news."""
        request(**requested)
        return self

    def _set_output(self, _: str, given: BoundArguments) -> Self:
        self._estimator.set_output(**given.arguments)
        self._beside.pop("transform_output", None)
        self._changed, self._fetched = True, None
        return self


def remote_estimator(worker: Any, node_id: str) -> RemoteEstimator | None:
    """The handle of a node that is an estimator.

    Returns:
        None where the estimator cannot be made here: its package is missing, or it would take a
        pickle.
    """
    try:
        filter_like, config = _loaded(worker, node_id, worker.list().nodes[node_id].filter)
        estimator = as_estimator(filter_like)
    except ValidationError:
        return None
    except soma.RemoteError as error:
        if error.code != "pickle_refused":
            raise
        return None
    beside = {key: config[key] for key, usual in _BESIDE.items() if config.get(key, usual) != usual}
    state = worker.get_state(node_id).fit_state or config.get("learned") or None
    made = _kind(type(estimator).__name__)._made(worker, node_id, estimator, beside, state)
    made._loaded, made._changed = as_filter(estimator, **beside), False
    return made


def _loaded(worker: Any, node_id: str, name: str | None) -> tuple[Any, dict[str, Any]]:
    """What a node was loaded from, and its fields.

    Raises:
        RemoteError: ``pickle_refused``: an object, where pickles are refused.
    """
    try:
        made = pickle.loads(worker.get_state(node_id, format="cloudpickle").data)
        return made, dict(made)
    except soma.RemoteError as error:
        if error.code != "pickle_refused" or name is None:
            raise
    from soma_core.execution import read_value  # which the host needs for nothing else

    config = read_value(worker.get_state(node_id, format="value").data)
    return (name, without_defaults(name, config)), config


@cache
def _kind(name: str) -> type[RemoteEstimator]:
    """RemoteEstimator under the name of an estimator: scikit-learn names steps after classes."""
    return type(
        name,
        (RemoteEstimator,),
        {"__module__": __name__, "__doc__": RemoteEstimator.__doc__},
    )


def _samples_and_targets(given: BoundArguments) -> tuple[Any, Any]:
    """The arguments of a method as a filter takes them: weights and the like beside the targets."""
    values = dict(given.arguments)
    for parameter in given.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            values |= values.pop(parameter.name, {})
    samples = values.pop(next(iter(given.signature.parameters)))
    targets = values.pop("y", values.pop("Y", None))
    beside = {name: value for name, value in values.items() if value is not None}
    return samples, {"y": targets, **beside} if beside else targets


def _clones_of(worker: Any) -> _Clones:
    return _CLONES.setdefault(worker, _Clones())


def _unpickled(
    key: str | None, node_id: str, estimator: Any, beside: dict[str, Any], state: Any
) -> RemoteEstimator:
    worker = next((worker for worker, clones in _CLONES.items() if clones.key == key), None)
    made = _kind(type(estimator).__name__)._made(None, node_id, estimator, beside, None)
    return made._copied(worker, state)
