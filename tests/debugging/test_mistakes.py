"""The commonest mistakes, each answered by what came, what was expected, and what to do."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma

LOCK = threading.Lock()


class Learn(soma.Filter):
    k: int = 2

    def fit(self, x: Any, y: Any) -> Any:
        return {"mean": np.mean(x) + np.mean(y)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


class WithoutState(soma.Filter):
    def forward(self, x: Any) -> Any:  # type: ignore[override]
        return x


class Locked(soma.Filter):
    _lock: Any = None

    def model_post_init(self, context: Any) -> None:
        self._lock = threading.Lock()

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Guarded(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        with LOCK:
            return x


class Needs(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        import not_installed_thing

        return not_installed_thing


class OwnInit(soma.Filter):
    def __init__(self, n: int) -> None:
        self.n = n


class Sets(soma.Filter):
    def fit(self, x: Any, y: Any = None) -> Any:
        self.mean = np.mean(x)

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


class FitsNothing(soma.Filter):
    def fit(self, x: Any, y: Any = None) -> Any:
        pass

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


class FitsX(soma.Filter):
    def fit(self, x: Any) -> Any:  # type: ignore[override]
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Strict(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x

    def meta(self) -> soma.FilterMeta:
        rows = [soma.Dynamic("batch"), soma.Fixed(3)]
        schema = soma.Schema(dtype="Float64", shape=rows)
        return super().meta().replace(input_schema=schema)


class NoForward(soma.Filter):
    pass


class Meta(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return x

    def meta(self) -> Any:
        return {"nome": "typo"}


class Unreturnable(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return {"layers": [(value for value in x)]}


class Module:
    def forward(self, x: Any) -> Any:
        return x


class Plain:
    def predict(self, x: Any) -> Any:
        return x


Mistake = tuple[str, Callable[[soma.Worker], object], type[BaseException], list[str]]

MISTAKES: list[Mistake] = [
    # Names of nodes
    (
        "the id of a node is misspelled",
        lambda w: w.forward("lern", 1),
        soma.RemoteError,
        ["unknown node 'lern'", "'learn'", "did you mean 'learn'?"],
    ),
    (
        "an id in a chain is misspelled",
        lambda w: w.composite_forward(["strict", "strikt"], np.ones((1, 3))),
        soma.RemoteError,
        ["unknown node 'strikt'", "did you mean 'strict'?"],
    ),
    (
        "a chain is given as one text",
        lambda w: w.composite_forward("learn", 1),
        TypeError,
        ["'learn'", "['learn']"],
    ),
    ("a chain is empty", lambda w: w.composite_forward([], 1), ValueError, ["node_ids"]),
    ("an id is a number", lambda w: w.forward(3, 1), TypeError, ["node_id", "3"]),  # type: ignore[arg-type]
    ("an id is None", lambda w: w.fit(None, 1), TypeError, ["node_id"]),  # type: ignore[arg-type]
    (
        "a filter is asked for that is not loaded",
        lambda w: w.filter("lern"),
        KeyError,
        ["'lern' is not loaded", "learn"],
    ),
    ("what is not loaded is unloaded", lambda w: w.unload(["x"]), soma.RemoteError, ["'x'"]),
    # States and learning
    (
        "an own filter was never fitted",
        lambda w: w.forward("learn", 1),
        KeyError,
        ["'mean'", "not been fitted", "call fit first, or pass a state"],
    ),
    (
        "targets are forgotten",
        lambda w: w.fit("learn", [1.0, 2.0]),
        TypeError,
        ["no y", "pass the targets"],
    ),
    (
        "fit takes no targets",
        lambda w: (w.load({"fx": FitsX()}), w.fit("fx", 1)),
        TypeError,
        ["define fit(self, x, y=None)"],
    ),
    (
        "fit returns nothing",
        lambda w: (w.load({"fn": FitsNothing()}), w.fit("fn", [1]), w.forward("fn", 1)),
        TypeError,
        ["its state is None", "fit must return what forward needs"],
    ),
    (
        "fit sets an attribute",
        lambda w: (w.load({"s": Sets()}), w.fit("s", [1])),
        ValueError,
        ["no field 'mean'", "the state that it returns"],
    ),
    (
        "a state is given as a dict to set_state",
        lambda w: w.set_state("learn", {"mean": 1}),  # type: ignore[arg-type]
        TypeError,
        ["state", "NodeState", "dict"],
    ),
    (
        "the bytes of a state are garbage",
        lambda w: w.set_state("learn", b"garbage"),
        soma.RemoteError,
        ["learn"],
    ),
    (
        "a state's format is misspelled",
        lambda w: w.get_state("learn", format="tensors"),  # type: ignore[arg-type]
        ValueError,
        ["format", "'torch'", "'tensors'"],
    ),
    (
        "gradients are a list",
        lambda w: w.apply_gradients("learn", [1.0]),  # type: ignore[arg-type]
        TypeError,
        ["gradients"],
    ),
    (
        "gradients of what has none",
        lambda w: w.get_gradients("learn"),
        soma.RemoteError,
        ["'learn'"],
    ),
    # Numbers
    (
        "a batch of no rows",
        lambda w: w.batched_fit(["learn"], [1], batch_size=0),
        ValueError,
        ["batch_size", "0"],
    ),
    (
        "a batch of half a row",
        lambda w: w.batched_fit(["learn"], [1], batch_size=0.5),
        TypeError,  # type: ignore[arg-type]
        ["batch_size"],
    ),
    ("no epochs", lambda w: w.batched_fit(["learn"], [1], epochs=0), ValueError, ["epochs"]),
    (
        "a misspelled collect",
        lambda w: w.batched_fit(["learn"], [1], collect="every"),
        ValueError,  # type: ignore[arg-type]
        ["collect", "'last'", "'all'"],
    ),
    ("a timeout as text", lambda w: w.forward("strict", 1, timeout="3"), TypeError, ["timeout"]),  # type: ignore[arg-type]
    ("a negative timeout", lambda w: w.forward("strict", 1, timeout=-1), ValueError, ["timeout"]),
    (
        "a misspelled optimizer",
        lambda w: w.composite_fit(["learn"], [1], [1], optimizer={"nam": "Adam"}),
        (ValueError, soma.RemoteError),
        ["optimizer"],
    ),  # type: ignore[list-item]
    # What is loaded
    ("filters as a list", lambda w: w.load([Learn()]), TypeError, ["dict", "list"]),  # type: ignore[arg-type]
    ("a node id that is a number", lambda w: w.load({1: Learn()}), TypeError, ["node id", "1"]),  # type: ignore[dict-item]
    (
        "a class in place of an instance",
        lambda w: w.load({"p": Learn}),
        TypeError,
        ["the class Learn", "Learn(…)"],
    ),
    ("a function", lambda w: w.load({"p": np.sqrt}), TypeError, ["forward(x, state)"]),
    (
        "an object without forward",
        lambda w: w.load({"p": Plain()}),
        TypeError,
        ["Plain", "subclass soma_core.Filter"],
    ),
    (
        "an object whose forward takes no state",
        lambda w: w.load({"p": Module()}),
        TypeError,
        ["Module.forward(self, x", "define forward(self, x, state)"],
    ),
    (
        "a filter whose forward takes no state",
        lambda w: w.load({"p": WithoutState()}),
        TypeError,
        ["WithoutState.forward(self, x", "define forward(self, x, state)"],
    ),
    (
        "a filter without forward",
        lambda w: (w.load({"p": NoForward()}), w.forward("p", 1)),
        NotImplementedError,
        ["NoForward does not define forward(x, state)"],
    ),
    ("a meta with a typo", lambda w: w.load({"p": Meta()}), soma.RemoteError, ["meta()", "nome"]),
    (
        "a tuple of three",
        lambda w: w.load({"p": ("sklearn.PCA", {}, 1)}),
        TypeError,
        ["(name, config)"],
    ),
    (
        "an unknown registered filter",
        lambda w: w.load({"p": ("no.Such", {})}),
        soma.RemoteError,
        ["unknown filter 'no.Such'", "soma filters"],
    ),
    (
        "a configuration that is a list",
        lambda w: w.load({"p": ("x.Y", [1])}),
        TypeError,
        ["config is a dict", "list"],
    ),
    (
        "a configuration that holds an array",
        lambda w: w.load({"p": ("x.Y", {"a": np.ones(2)})}),
        TypeError,
        ["plain JSON", "'a'", "ndarray"],
    ),
    (
        "a lock in a filter",
        lambda w: w.load({"p": Locked()}),
        soma.ProtocolError,
        ["self._lock is a _thread.lock", "on_load"],
    ),
    (
        "a lock in a global",
        lambda w: w.load({"p": eval_guarded()}),
        soma.ProtocolError,
        ["which uses the global LOCK", "_thread.lock"],
    ),
    (
        "a worker in a filter's data",
        lambda w: w.forward("strict", {"w": [w]}),
        soma.ProtocolError,
        ["Worker"],
    ),
    # Data
    (
        "a generator as input",
        lambda w: w.forward("strict", (i for i in [1])),
        soma.ProtocolError,
        ["generator", "send a list"],
    ),
    (
        "a lock as input",
        lambda w: w.forward("strict", threading.Lock()),
        soma.ProtocolError,
        ["_thread.lock", "send plain data"],
    ),
    (
        "a result that does not pickle",
        lambda w: (w.load({"u": Unreturnable()}), w.forward("u", [1])),
        soma.RemoteError,
        ["its result cannot be sent", "generator"],
    ),
    (
        "data of another shape than declared",
        lambda w: w.forward("strict", np.ones((2, 4))),
        soma.RemoteError,
        ["'strict'", "3", "4"],
    ),
    (
        "data of another type than declared",
        lambda w: w.forward("strict", np.ones((2, 3), "f4")),
        soma.RemoteError,
        ["'strict'", "Float64", "Float32"],
    ),
    (
        "a module that the worker lacks",
        lambda w: (w.load({"n": Needs()}), w.forward("n", 1)),
        ModuleNotFoundError,
        ["not_installed_thing", sys.executable, "install it there"],
    ),
    (
        "a checkpoint that is none",
        lambda w: w.load_checkpoint(__file__),
        ValueError,
        ["checkpoint"],
    ),
    (
        "a profile in no folder",
        lambda w: w.forward("strict", 1, profile="/no/such/x.prof"),
        FileNotFoundError,
        ["/no/such"],
    ),
    ("a worker is pickled", lambda w: pickle.dumps(w), TypeError, ["Worker", "connect"]),
    ("an unknown command", lambda w: w.call("FOREWARD"), soma.RemoteError, ["FOREWARD", "FORWARD"]),
]


def eval_guarded() -> soma.Filter:
    """Its module is known to no worker, so that it travels whole, with the lock."""
    from types import ModuleType

    module = ModuleType("__main__")
    source = Path(__file__).read_text()
    start = source.index("class Guarded"), source.index("class Needs")
    vars(module).update(soma=soma, Any=Any, LOCK=LOCK)
    exec(source[slice(*start)], vars(module))
    made: soma.Filter = vars(module)["Guarded"]()
    return made


@pytest.fixture(scope="module")
def worker() -> Iterator[soma.Worker]:
    with soma.connect("stdio", filters={"learn": Learn(), "strict": Strict()}) as started:
        yield started


@pytest.mark.parametrize(
    ("make", "kind", "parts"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES]
)
def test_a_mistake_in_a_call_is_explained_and_costs_that_call_alone(
    worker: soma.Worker,
    make: Callable[[soma.Worker], object],
    kind: type[BaseException],
    parts: list[str],
) -> None:
    pid = worker.ping().pid
    with pytest.raises(kind) as caught:
        make(worker)
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert worker.ping().pid == pid


STARTING: list[tuple[str, Callable[[], object], type[BaseException], list[str]]] = [
    (
        "filters first",
        lambda: soma.connect({"a": Learn()}),
        TypeError,  # type: ignore[arg-type]
        ["name of a transport", "dict", "filters="],
    ),
    (
        "a misspelled transport",
        lambda: soma.connect("stdoi"),
        soma.PluginNotFound,
        ["did you mean 'stdio'?"],
    ),
    (
        "a misspelled option",
        lambda: soma.connect("stdio", thread=2),
        TypeError,
        ["no option thread", "did you mean threads?"],
    ),
    (
        "an option of a wrong type",
        lambda: soma.connect("stdio", threads="many"),
        ValueError,
        ["threads"],
    ),
    (
        "a misspelled pickle",
        lambda: soma.connect("stdio", pickle="nevr"),
        ValueError,  # type: ignore[arg-type]
        ["pickle", "'never'"],
    ),
    (
        "a misspelled restart",
        lambda: soma.connect("stdio", restart="always"),
        ValueError,  # type: ignore[arg-type]
        ["'on-crash'", "'always'"],
    ),
    (
        "retries without restart",
        lambda: soma.connect("stdio", retries=2),
        ValueError,
        ["retries needs restart='on-crash'"],
    ),
    (
        "no daemon",
        lambda: soma.connect("socket", path="/tmp/none.sock"),
        soma.StartFailed,
        ["no daemon listens", "soma serve socket --path /tmp/none.sock"],
    ),
    (
        "no such interpreter",
        lambda: soma.connect("stdio", python="/no/python"),
        soma.StartFailed,
        ["/no/python"],
    ),
    (
        "an interpreter without soma",
        lambda: soma.connect(
            "stdio", command=[sys.executable, "-I", "-S", "-m", "soma_transport_stdio"]
        ),
        soma.StartFailed,
        ["install soma-core there", "python="],
    ),
    (
        "a greeting before the worker answers",
        lambda: soma.connect("stdio", command=["sh", "-c", "echo Welcome to box; exec cat"]),
        soma.StartFailed,
        ["'Welcome to box'", "stderr"],
    ),
    ("configuration by position", lambda: Learn(3), TypeError, ["by name", "Learn(k=…)"]),  # type: ignore[misc]
    ("a field that does not exist", lambda: Learn(kk=3), ValueError, ["kk"]),
    ("a field of a wrong type", lambda: Learn(k="two"), ValueError, ["k", "integer", "two"]),  # type: ignore[arg-type]
    ("an initialiser of one's own", lambda: OwnInit(3), ValueError, ["no field 'n'", "n: int"]),
]


@pytest.mark.parametrize(
    ("make", "kind", "parts"), [row[1:] for row in STARTING], ids=[row[0] for row in STARTING]
)
def test_a_mistake_before_there_is_a_worker_is_explained(
    make: Callable[[], object], kind: type[BaseException], parts: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        make()
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


def test_a_call_after_the_end_is_told_so() -> None:
    worker = soma.connect("stdio")
    worker.close()
    with pytest.raises(soma.ChannelClosed, match="the worker was closed"):
        worker.forward("learn", 1)


def test_a_mistaken_configuration_is_told_in_one_line() -> None:
    import traceback

    pytest.importorskip("soma_filters_sklearn")
    with soma.connect("stdio") as worker:
        with pytest.raises(ValueError, match="did you mean 'n_components'") as caught:
            worker.load({"p": ("sklearn.PCA", {"n_componets": 3})})
        printed = "".join(traceback.format_exception(caught.value))
    assert "soma_core" not in printed.replace("soma_core.errors.RemoteError", "")


@pytest.mark.parametrize("kind", ["progress", "own thread"])
def test_a_call_from_within_a_call_is_refused_at_once(kind: str) -> None:
    from soma_core import progress

    class Reports(soma.Filter):
        def fit(self, x: Any, y: Any = None) -> Any:
            progress.report(epoch=1, epochs=1)
            return {}

        def forward(self, x: Any, state: Any) -> Any:
            return x

    transport = "stdio" if kind == "progress" else "inline"
    with soma.connect(transport, filters={"r": Reports()}) as worker:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            worker.fit("r", 1, progress=lambda report: worker.forward("r", 1), timeout=20)
        assert worker.forward("r", 2) == 2
