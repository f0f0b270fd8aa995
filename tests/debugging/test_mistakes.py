"""The commonest mistakes, each answered by what came, what was expected, and what to do."""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soma_core as soma

LOCK = threading.Lock()


async def coroutine(report):
    """Would have to be awaited."""


class Learn(soma.Filter):
    k: int = 2

    def fit(self, x: Any, y: Any) -> Any:
        return {"mean": np.mean(x) + np.mean(y)}

    def forward(self, x: Any, state: Any) -> Any:
        return x - state["mean"]


class Uninitialized(soma.Filter):
    def __init__(self, k: int) -> None:
        self._k = k

    def forward(self, x: Any, state: Any) -> Any:
        return x


class Early(soma.Filter):
    k: int

    def __init__(self, k: int) -> None:
        self.k = k


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


class Foward(soma.Filter):
    def foward(self, x: Any, state: Any) -> Any:
        return x


class Awaits(soma.Filter):
    async def forward(self, x: Any, state: Any) -> Any:
        return x


class Asks(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        return input()


class Stops(soma.Filter):
    def forward(self, x: Any, state: Any) -> Any:
        breakpoint()


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
    (
        "a state is for no node",
        lambda w: w.composite_forward(["learn"], 1, {"lern": {}}),
        ValueError,
        ["states", "'lern'", "the chain is learn"],
    ),
    (
        "a profile would be a folder",
        lambda w: w.forward("learn", 1, profile="/"),
        IsADirectoryError,
        ["profile", "'/'", "name a file in it"],
    ),
    (
        "a worker is taken for a pool",
        lambda w: w.map("learn", [1]),
        AttributeError,
        ["'map'", "a WorkerPool has it"],
    ),
    (
        "an option is misspelt that is none of the transport's",
        lambda w: soma.connect("inline", filter={}),
        TypeError,
        ["no option filter", "did you mean filters?"],
    ),
    ("a chain is empty", lambda w: w.composite_forward([], 1), ValueError, ["node_ids"]),
    (
        "a chain is None",
        lambda w: w.composite_forward(None, 1),  # type: ignore[arg-type]
        TypeError,
        ["node_ids is a list", "None"],
    ),
    ("an id is a number", lambda w: w.forward(3, 1), TypeError, ["node_id", "3"]),  # type: ignore[arg-type]
    ("an id is None", lambda w: w.fit(None, 1), TypeError, ["node_id"]),  # type: ignore[arg-type]
    (
        "a chain is a set",
        lambda w: w.composite_forward({"learn"}, 1),
        TypeError,
        ["list of node ids", "{'learn'}", "no order"],
    ),
    # Arguments
    (
        "an argument of another library",
        lambda w: w.fit("learn", [1], [1], sample_weight=[1]),  # type: ignore[call-arg]
        TypeError,
        ["Worker.fit()", "'sample_weight'", "it takes node_id, x, y"],
    ),
    (
        "a misspelled argument",
        lambda w: w.forward("learn", [1], stat={}),  # type: ignore[call-arg]
        TypeError,
        ["Worker.forward()", "'stat'", "did you mean state?"],
    ),
    (
        "the data are forgotten",
        lambda w: w.forward("learn"),  # type: ignore[call-arg]
        TypeError,
        ["Worker.forward() missing", "'x'", "it takes node_id, x, state"],
    ),
    (
        "an option is given by its place",
        lambda w: w.fit("learn", [1], [1], True),  # type: ignore[misc]
        TypeError,
        [".fit()", "it takes node_id, x, y, and by name return_state=…"],
    ),
    (
        "a chain is fitted as one node",
        lambda w: w.fit(["learn", "last"], [1], [1]),  # type: ignore[arg-type]
        TypeError,
        ["node_id", "['learn', 'last']", "the id of one node", "composite_fit"],
    ),
    (
        "an optimizer is a name",
        lambda w: w.composite_fit(["learn"], [1], [1], optimizer="Adam"),  # type: ignore[arg-type]
        TypeError,
        ["optimizer", "'Adam'", '{"name": "Adam"'],
    ),
    (
        "what is called after an epoch is no function",
        lambda w: w.batched_fit(["learn"], [1], [1], on_epoch=3),  # type: ignore[arg-type]
        TypeError,
        ["on_epoch is a function", "3"],
    ),
    (
        "a progress that is no function",
        lambda w: w.fit("learn", [1], [1], progress="yes"),  # type: ignore[arg-type]
        TypeError,
        ["progress is True, False, or a function", "'yes'"],
    ),
    (
        "a progress that would have to be awaited",
        lambda w: w.forward("learn", [1], progress=coroutine),
        TypeError,
        ["progress is called and not awaited", "coroutine", "async def"],
    ),
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
        "the state of another filter",
        lambda w: w.set_state("learn", w.get_state("strict")),
        soma.RemoteError,
        ["'learn'", "is a Strict", "a Learn", "load one instead"],
    ),
    (
        "a method that the filter lacks",
        lambda w: w.predict("learn", [1]),
        AttributeError,
        ["Learn, which has no method predict", "define predict(self, x, state)"],
    ),
    (
        "a filter that cannot go on",
        lambda w: w.partial_fit("learn", [1], [1]),
        AttributeError,
        ["no partial_fit(x, y, state)", "use fit"],
    ),
    (
        "targets of another length",
        lambda w: w.batched_fit(["learn"], [1, 2], [1]),
        soma.RemoteError,
        ["equally many rows", "data has 2, y has 1"],
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
    (
        "a misspelled forward",
        lambda w: (w.load({"p": Foward()}), w.forward("p", 1)),
        NotImplementedError,
        ["Foward does not define forward(x, state)", "but foward"],
    ),
    (
        "an __init__ that does not call that of the base class",
        lambda w: w.load({"p": Uninitialized(1)}),
        TypeError,
        ["Uninitialized.__init__ has not called super().__init__", "declare the fields"],
    ),
    (
        "an __init__ that sets a field first",
        lambda w: Early(1),
        AttributeError,
        ["Early.__init__ sets 'k' before it has called super().__init__"],
    ),
    (
        "a forward that is async",
        lambda w: w.load({"p": Awaits()}),
        TypeError,
        ["Awaits.forward is async", "define it without async"],
    ),
    (
        "a filter that asks on its standard input",
        lambda w: (w.load({"p": Asks()}), w.forward("p", 1)),
        EOFError,
        ["no standard input", "send the answer as data"],
    ),
    (
        "a filter that stops in a debugger",
        lambda w: (w.load({"p": Stops()}), w.forward("p", 1)),
        soma.RemoteError,
        ["no terminal", 'connect with "inline"'],
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
        ["uses the global LOCK, which is a _thread.lock", "a module"],
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
        "a lock deep in the input",
        lambda w: w.forward("strict", {"rows": [1, threading.Lock()]}),
        soma.ProtocolError,
        ['data["rows"][1]', "_thread.lock"],
    ),
    (
        "an open file as input",
        lambda w: w.forward("strict", sys.__stderr__.buffer),  # type: ignore[union-attr]
        soma.ProtocolError,
        ["_io.", "send its path"],
    ),
    (
        "a result that does not pickle",
        lambda w: (w.load({"u": Unreturnable()}), w.forward("u", [1])),
        soma.RemoteError,
        ["FORWARD of node 'u' was executed, and its result cannot be sent", "generator"],
    ),
    (
        "a state is what get_state returned",
        lambda w: (w.fit("learn", [1], [1]), w.forward("learn", [1], w.get_state("learn"))),
        soma.RemoteError,
        ["what get_state returned", "fit_state"],
    ),
    (
        "metrics are a list",
        lambda w: w.batched_fit(["learn"], [1], validation=([1], [1]), metrics=["r2"]),  # type: ignore[arg-type]
        TypeError,
        ["metrics is a dict", "['r2']", "such as"],
    ),
    (
        "a node as an attribute",
        lambda w: w.learn.fit([1], [1]),
        AttributeError,
        ["no attribute 'learn'", "it is a node", "forward('learn', x)", "filter('learn')"],
    ),
    (
        "a method that is misspelt",
        lambda w: w.foward("learn", [1]),
        AttributeError,
        ["no attribute 'foward'", "did you mean forward?"],
    ),
    (
        "weights by name",
        lambda w: w.fit("learn", [1], [1], sample_weight=[1]),
        TypeError,
        ["argument 'sample_weight'", 'y={"y": y, "sample_weight": …}'],
    ),
    (
        "the address of a server as a transport",
        lambda w: soma.connect("http://localhost:8000"),
        soma.PluginNotFound,
        ["'http://localhost:8000'", "connect('http', url='http://localhost:8000')"],
    ),
    (
        "a worker in an async with",
        lambda w: asyncio.run(w.__aenter__()),
        TypeError,
        ["`with`", "soma.connect_async"],
    ),
    (
        "a worker for an event loop in a with",
        lambda w: soma.connect_async("inline").__enter__(),  # type: ignore[func-returns-value]
        TypeError,
        ["`async with`", "soma.connect("],
    ),
    (
        "a registered filter is a dict",
        lambda w: w.load({"p": {"name": "sklearn.PCA"}}),
        TypeError,
        ["'p'", "got a dict", "a tuple (name, config)"],
    ),
    (
        "a registered filter is a list",
        lambda w: w.load({"p": ["sklearn.PCA", {}]}),
        TypeError,
        ["'p'", "a tuple (name, config)", "['sklearn.PCA', {}]"],
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
    (
        "a checkpoint in no folder",
        lambda w: w.save_checkpoint("/no/such/x"),
        FileNotFoundError,
        ["no folder '/no/such' for x"],
    ),
    (
        "a folder for a checkpoint",
        lambda w: w.save_checkpoint("/"),
        IsADirectoryError,
        ["'/' is a folder", "name a file in it"],
    ),
    ("a worker is pickled", lambda w: pickle.dumps(w), TypeError, ["Worker", "connect"]),
    ("an unknown command", lambda w: w.call("FOREWARD"), soma.RemoteError, ["FOREWARD", "FORWARD"]),
    (
        "a node that is not loaded is trainable",
        lambda w: w.load({"e": ("sklearn.PCA", {})}, trainable={"ee": False}),
        ValueError,
        ["trainable names 'ee'; the filters are e"],
    ),
    ("a stream through nothing", lambda w: [*w.stream([], [1])], ValueError, ["at least one"]),
    ("fields in a list", lambda w: w.call("NAP", [1]), TypeError, ["a dict of the fields of NAP"]),
    ("no name", lambda w: w.call(3), TypeError, ["the name of a command, got 3"]),
    ("two names", lambda w: w.call("NAP", {"cmd": "PING"}), soma.RemoteError, ["NAP"]),
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
        "a command is a text",
        lambda: soma.connect("stdio", command="ssh box python"),
        ValueError,
        ["command", "a list of words", "['ssh', 'box', 'python']"],
    ),
    (
        "a pool is told to restart",
        lambda: soma.WorkerPool("stdio", 1, restart="on-crash"),
        TypeError,
        ["replaces workers that die by itself", "leave restart out"],
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
    (
        "an output to no folder",
        lambda: soma.connect("stdio", output="/no/such/x.log"),
        soma.StartFailed,
        ["/no/such/x.log", "No such file"],
    ),
    (
        "a folder that is not there",
        lambda: soma.connect("stdio", cwd="/no/such"),
        soma.StartFailed,
        ["'/no/such'", "cwd"],
    ),
    (
        "a worker that was not awaited",
        lambda: soma.connect_async("inline").forward("learn", [1]),  # type: ignore[attr-defined]
        AttributeError,
        ["has no forward yet", "await it"],
    ),
    (
        "filters by their place",
        lambda: soma.connect("stdio", {"net": OwnInit}),  # type: ignore[misc]
        TypeError,
        ["connect() takes", "and by name filters=…"],
    ),
    (
        "a pool of no number",
        lambda: soma.WorkerPool("stdio", "2"),  # type: ignore[arg-type]
        TypeError,
        ["n is a whole number", "'2'"],
    ),
    (
        "a pool whose batching is a dict",
        lambda: soma.WorkerPool("stdio", 1, batching={"max_rows": 3}),  # type: ignore[arg-type]
        TypeError,
        ["Batching(max_rows=…", "{'max_rows': 3}"],
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


COMMONEST = [
    "the id of a node is misspelled",
    "a chain is given as one text",
    "an own filter was never fitted",
    "a timeout as text",
    "filters as a list",
    "a class in place of an instance",
    "a lock deep in the input",
    "an option is given by its place",
]


def test_a_pool_and_an_awaited_worker_explain_the_commonest_likewise() -> None:
    rows = {row[0]: row[1:] for row in MISTAKES}
    filters = {"learn": Learn(), "strict": Strict()}

    async def awaited() -> None:
        async with await soma.connect_async("inline", filters=filters) as worker:
            for name in COMMONEST:
                make, kind, parts = rows[name]
                with pytest.raises(kind) as caught:
                    await make(worker)  # type: ignore[arg-type, misc]
                assert all(part in str(caught.value) for part in parts), name

    asyncio.run(awaited())
    with soma.WorkerPool("inline", 1, filters=filters) as pool:
        for name in COMMONEST:
            make, kind, parts = rows[name]
            with pytest.raises(kind) as caught:
                make(pool)  # type: ignore[arg-type]
            assert all(part in str(caught.value) for part in parts), name
        with pytest.raises(TypeError, match=r"takes node_id, x, and by name state=…"):
            pool.submit("learn", [1], {})  # type: ignore[misc]
        with pytest.raises(TypeError, match="one goes to submit"):
            pool.map("learn", 3)  # type: ignore[arg-type]


def test_a_call_after_the_end_is_told_so() -> None:
    worker = soma.connect("stdio")
    worker.close()
    with pytest.raises(soma.ChannelClosed, match="the worker was closed"):
        worker.forward("learn", 1)


@pytest.mark.nightly
def test_a_mistaken_configuration_is_told_in_one_line() -> None:
    import traceback

    pytest.importorskip("soma_filters_sklearn")
    with soma.connect("stdio") as worker:
        with pytest.raises(ValueError, match="did you mean 'n_components'") as caught:
            worker.load({"p": ("sklearn.PCA", {"n_componets": 3})})
        printed = "".join(traceback.format_exception(caught.value))
    assert "soma_core" not in printed.replace("soma_core.errors.RemoteError", "")


class Reports(soma.Filter):
    def fit(self, x: Any, y: Any = None) -> Any:
        soma.progress.report(epoch=1, epochs=1)
        return {}

    def forward(self, x: Any, state: Any) -> Any:
        return x


@pytest.mark.parametrize("transport", ["stdio", "inline"])
def test_a_call_from_a_progress_callback_is_refused_at_once(transport: str) -> None:
    with soma.connect(transport, filters={"r": Reports()}) as worker:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            worker.fit("r", 1, progress=lambda report: worker.forward("r", 1), timeout=20)
        assert worker.forward("r", 2) == 2


def joins(call: Callable[[], None]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


def has_it_done(call: Callable[[], None]) -> None:
    with futures.ThreadPoolExecutor(1) as executor:
        executor.submit(call).result()


def waits_for_one_of_it(call: Callable[[], None]) -> None:
    with futures.ThreadPoolExecutor(1) as executor:
        futures.wait([executor.submit(call)])


def awaits_it(call: Callable[[], None]) -> None:
    asyncio.run(asyncio.to_thread(call))


@pytest.mark.parametrize("does", [joins, has_it_done, waits_for_one_of_it, awaits_it])
def test_a_call_from_a_thread_that_the_filter_waits_for_is_refused_at_once(
    does: Callable[[Callable[[], None]], None],
) -> None:
    raised: list[BaseException] = []

    class Starts(soma.Filter):
        def forward(self, x: Any, state: Any) -> Any:
            does(call)
            return x

    def call() -> None:
        try:
            worker.forward("s", 1)
        except RuntimeError as error:
            raised.append(error)

    with soma.connect("inline", filters={"s": Starts()}) as worker:
        assert worker.forward("s", 1, timeout=20) == 1
    assert "would wait for itself" in str(raised[0])


def test_a_call_waits_for_one_in_the_event_loop_that_waits_for_it() -> None:
    """The loop runs around that call, and not within it."""
    runs, never = threading.Event(), threading.Event()

    class Waits(soma.Filter):
        def forward(self, x: Any, state: Any) -> Any:
            runs.set()
            return never.wait(0.3) if x == "first" else x

    async def both() -> list[Any]:
        def second() -> Any:
            runs.wait(20)
            return worker.forward("w", "second", timeout=20)

        later = asyncio.get_running_loop().run_in_executor(None, second)
        return [worker.forward("w", "first"), await later]

    with soma.connect("inline", filters={"w": Waits()}) as worker:
        assert asyncio.run(both()) == [False, "second"]
