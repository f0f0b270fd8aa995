"""What a script defines stays its own: a reply changes nothing in the host, on any transport."""

from __future__ import annotations

import copy
import enum
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from soma_core.wire.definitions.signature import Signatures
from soma_core.wire.pickles import Pickles

from ..support import PROCESSES, TRANSPORTS, gate_runs, socket_daemon

Run = Callable[..., str]
over_each = pytest.mark.parametrize("transport", gate_runs("socket", of=TRANSPORTS))

KINDS = '''
import abc, collections, ctypes, dataclasses, enum, functools, typing
import pydantic

class Plain:
    shared = []
    def __init__(self, value=1): self.value = value
    def twice(self): return self.value * FACTOR
    @property
    def negative(self): return -self.value
    @classmethod
    def made(cls): return cls(5)
    @staticmethod
    def known(): return FACTOR
    @functools.cached_property
    def slow(self): return self.value + 100
    @functools.lru_cache
    def cached(self): return self.value
    class Inner:
        def outer(self): return Plain

@dataclasses.dataclass
class Data:
    a: int = 1
    b: list = dataclasses.field(default_factory=list)

@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int = 1

class Slots:
    __slots__ = ("a", "__weakref__")
    def __init__(self): self.a = 1

class Color(enum.Enum):
    RED = 1
    def label(self): return self.name.lower()

class Level(enum.IntFlag):
    LOW = 1
    HIGH = 2

class Pair(typing.NamedTuple):
    a: int = 1
    def total(self): return self.a + FACTOR

Point = collections.namedtuple("Point", "x y")
T = typing.TypeVar("T")

class Box(typing.Generic[T]):
    def get(self) -> T: return 1

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def area(self): return super().__init__() or FACTOR

class Meta(type):
    def __call__(cls, *args): return super().__call__(*args)

class WithMeta(metaclass=Meta):
    pass

class Failure(ValueError):
    def __init__(self, why, code=3):
        super().__init__(why)
        self.code = code

class Tree(pydantic.BaseModel):
    value: int = 1
    children: "list[Tree]" = []
    @pydantic.field_validator("value")
    @classmethod
    def check(cls, value): return value
    @pydantic.computed_field
    @property
    def size(self) -> int: return 1 + sum(child.size for child in self.children)

class Page(pydantic.BaseModel, typing.Generic[T]):
    items: list[T] = []

class Numbers(Page[int]):
    pass

class Holds(pydantic.BaseModel):
    data: Data = Data()

class Pose(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("kind", ctypes.c_char), ("at", ctypes.c_int.__ctype_be__ * 2)]
    def first(self): return self.at[0] * FACTOR

class Link(ctypes.Structure):
    pass

Link._fields_ = [("after", ctypes.POINTER(Link)), ("run", ctypes.CFUNCTYPE(None, Pose))]

try:
    import msgspec
except ImportError:
    Order = Part = Data
else:
    class Order(msgspec.Struct, typing.Generic[T], kw_only=True, rename="camel"):
        unit_price: T
        notes: list[str] = []
        links: dict = msgspec.field(default_factory=lambda: {"n": FACTOR})
        nested: "Order | None" = None

    class Part(Order, tag=True):
        def __post_init__(self): self.notes.append("made")

def local():
    class Local:
        def me(self): return Local
    return Local

Local = local()

@functools.singledispatch
def describe(value): return "object"

@describe.register
def _(value: int): return "int"

@functools.lru_cache(maxsize=3)
def square(n): return n * n

def function(): return FACTOR

FACTOR = 2
PRICE = {} if Order is Data else {"unit_price": 3}

class Sub(Plain, collections.UserDict):
    pass

def objects():
    return [
        Plain(), Plain.Inner(), Data(), Frozen(), Slots(), Color.RED, Level.LOW | Level.HIGH,
        Pair(), Point(1, 2), Box(), Square(), WithMeta(), Failure("no"), Local(),
        Page[int](items=[1]), Page[Data](), Page(), Numbers(), Holds(),
        Tree(children=[Tree(value=2)]), Sub(), [Data()], {"k": Data()}, (Data(),), Pose(),
        (Pose * 2)(), Order(**PRICE), Part(**PRICE),
    ]

def definitions():
    return [
        Plain, Plain.Inner, Data, Frozen, Slots, Color, Level, Pair, Point, Box, Shape, Square,
        Meta, WithMeta, Failure, Local, Tree, Page, Page[int], Numbers, Holds, Sub, T, describe,
        Pose, Link, Order, Part,
        square, function, Plain.twice, Color.RED,
    ]

class Echo(soma.Filter):
    def fit(self, x, y=None): return {"kept": x}
    def forward(self, x, state): return [x, state.get("kept")]

def contents():
    """What the classes hold, less what pickling anything adds by itself."""
    classes = [kind for kind in definitions() if isinstance(kind, type)]
    return {
        (kind.__qualname__, name): value
        for kind in classes
        for name, value in vars(kind).items()
        if name not in ("__slotnames__", "__abstractmethods__")
    }
'''


@over_each
def test_what_a_script_defines_is_the_same_object_when_it_comes_back(
    run: Run, transport: str
) -> None:
    source = (
        KINDS
        + """
if __name__ == "__main__":
    before, names = contents(), dict(globals())
    with connect(filters={"echo": Echo()}) as worker:
        for state in worker.fit("echo", objects())["kept"], worker.forward("echo", objects())[0]:
            for sent, got in zip(objects(), state, strict=True):
                assert type(got) is type(sent), (got, sent)
        for sent, got in zip(definitions(), worker.forward("echo", definitions())[0], strict=True):
            assert got is sent, (got, sent)
        worker.set_state("echo", worker.get_state("echo"))
        learned = worker.forward("echo", 1)[1]
        assert [type(item) for item in learned] == [type(item) for item in objects()]
    changed = [key for key, value in contents().items() if before.get(key) is not value]
    assert not changed, changed
    assert not [name for name in names if globals()[name] is not names[name]]
    print("nothing changed")
"""
    )
    assert run(transport, source) == "nothing changed\n"


@over_each
def test_the_filters_use_what_the_script_defines(run: Run, transport: str) -> None:
    source = (
        KINDS
        + """
class Use(soma.Filter):
    tree: Tree = Tree()
    def forward(self, x, state):
        assert x["plain"].twice() == 6 and x["plain"].negative == -3
        assert x["plain"].slow == 103 and x["plain"].cached() == 3
        assert Plain.made().value == 5 and Plain.known() == 2
        assert Plain.Inner().outer() is Plain and Local().me() is Local
        assert x["color"] is Color.RED and x["color"].label() == "red"
        assert x["frozen"] == Frozen(3) and not hasattr(x["frozen"], "__dict__")
        assert x["tree"].size == 2 and Tree.model_validate({"value": "3"}).value == 3
        assert describe(3) == "int" and describe("") == "object"
        assert square(4) == 16 and square.cache_info().maxsize == 3
        assert isinstance(x["data"], Data) and Square().area() == 2 and sys.argv == x["argv"]
        assert Pose(b"a", (1, 2)).first() == 2 and bytes(Pose(b"a", (1, 2)))[1:5] == b"\\0\\0\\0\\1"
        assert Link().after._type_ is Link and len(bytes((Pose * 2)())) == 18
        if Order is not Data:
            assert Part(unit_price=1).links == {"n": 2} and Part(unit_price=1).notes == ["made"]
            read = msgspec.json.decode(b'{"unitPrice": 3, "nested": {"unitPrice": 4}}', type=Order)
            assert read == Order(unit_price=3, nested=Order(unit_price=4))
        return {**x, "tree": Tree(children=[x["tree"], self.tree])}

if __name__ == "__main__":
    sent = {"plain": Plain(3), "color": Color.RED, "frozen": Frozen(3), "data": Data(),
            "tree": Tree(children=[Tree()]), "argv": sys.argv}
    with connect(filters={"use": Use(tree=Tree(value=7))}) as worker:
        got = worker.forward("use", sent)
        assert isinstance(got["tree"], Tree) and got["tree"].size == 4, got
        assert got["data"] == Data() and got["tree"].children[1].value == 7
        print("all used")
"""
    )
    assert run(transport, source) == "all used\n"


@pytest.mark.nightly
@over_each
def test_what_the_host_changes_while_a_call_runs_stays_changed(run: Run, transport: str) -> None:
    source = """
    import threading

    RATE = 1

    class Item:
        debug = False
        def price(self): return RATE

    class Slow(soma.Filter):
        def forward(self, x, state):
            import time; time.sleep(0.2); return x

    if __name__ == "__main__":
        with connect(filters={"slow": Slow()}) as worker:
            thread = threading.Timer(0.1, setattr, (Item, "debug", True))
            thread.start()
            got = worker.forward("slow", Item())
            thread.join()
        RATE = 10
        print(Item.debug, got.debug, Item().price(), got.price())
    """
    assert run(transport, source) == "True True 10 10\n"


@over_each
def test_a_change_of_the_host_reaches_the_worker_with_the_next_object(
    run: Run, transport: str
) -> None:
    source = """
    RATE = 1

    class Item:
        factor = 1
        def price(self): return RATE * self.factor

    def scale(by, *, times=1): return by * times * scale.unit

    scale.unit, scale.__defaults__ = 1, (1,)

    class Scaled:
        def price(self): return scale()

    def decorate(function):
        @__import__("functools").wraps(function)
        def wrapper():
            try: return later
            except NameError: return "later"
        if not function: later = 1
        return wrapper

    @decorate
    def empty(): pass

    class Empty:
        def price(self): return empty()

    class Price(soma.Filter):
        def forward(self, x, state): return x.price()

    if __name__ == "__main__":
        with connect(filters={"price": Price()}) as worker:
            print(worker.forward("price", Item()), worker.forward("price", Item()))
            Item.factor = 2
            print(worker.forward("price", Item()))
            RATE = 10
            print(worker.forward("price", Item()))
            Item.price = lambda self: "replaced"
            print(worker.forward("price", Item()), worker.forward("price", Scaled()))
            scale.unit = 2
            print(worker.forward("price", Scaled()))
            scale.__kwdefaults__["times"] = 3
            print(worker.forward("price", Scaled()))
            scale.__defaults__ = (5,)
            scale.__defaults__ = (7,)  # where the first one was, as soon as that is gone
            print(worker.forward("price", Scaled()), worker.forward("price", Empty()))
    """
    assert run(transport, source) == "1 1\n2\n20\nreplaced 1\n2\n6\n42 later\n"


@pytest.mark.parametrize("transport", gate_runs("stdio", of=PROCESSES))
def test_what_a_filter_stores_in_its_script_s_globals_stays_from_call_to_call(
    run: Run, transport: str
) -> None:
    source = """
    CACHE = None
    class Item:
        count = 0

    class Model(soma.Filter):
        def forward(self, x, state):
            global CACHE
            CACHE = CACHE or __import__("threading").Lock()
            Item.count += 1
            Item.lock = CACHE
            return x, Item.count

    if __name__ == "__main__":
        with connect(filters={"model": Model()}) as worker:
            for _ in range(3):
                item, count = worker.forward("model", Item())
                print(type(item) is Item, count)
        print(Item.count, CACHE, hasattr(Item, "lock"))
    """
    assert run(transport, source) == "True 1\nTrue 2\nTrue 3\n0 None False\n"


@pytest.mark.nightly
def test_a_class_that_is_defined_anew_replaces_the_old_one_in_what_is_sent(run: Run) -> None:
    source = """
    CELL = "class Item:\\n def __init__(self, v): self.v = v\\n def get(self): return self.v {}"

    class Get(soma.Filter):
        def forward(self, x, state): return x, x.get()

    if __name__ == "__main__":
        with connect(filters={"get": Get()}) as worker:
            for change in ("", "+ 1", "+ 1", "* 10"):
                exec(CELL.format(change), globals())
                item, got = worker.forward("get", Item(4))
                print(type(item) is Item, got)
    """
    assert run("stdio", source) == "True 4\nTrue 5\nTrue 5\nTrue 40\n"


@pytest.mark.nightly
def test_classes_that_a_function_makes_are_told_apart(run: Run) -> None:
    source = """
    def make(n):
        class Made:
            def number(self): return n
        return Made

    class Number(soma.Filter):
        def forward(self, x, state): return [x, [item.number() for item in x]]

    if __name__ == "__main__":
        first, second, third = make(1), make(2), make(2)
        with connect(filters={"number": Number()}) as worker:
            items, numbers = worker.forward("number", [first(), second(), third()])
        print(numbers, [type(item) for item in items] == [first, second, third])
    """
    assert run("stdio", source) == "[1, 2, 2] True\n"


@pytest.mark.nightly
def test_a_class_of_pydantic_leaves_the_variables_of_its_function_behind(run: Run) -> None:
    source = """
    import threading
    import pydantic

    class Keeper:
        def __init__(self): self.lock = threading.RLock()

    def work():
        keeper = Keeper()
        class Step(pydantic.BaseModel):
            by: int = 1
            after: "Step | None" = None
        class Add(soma.Filter):
            step: Step
            def forward(self, x, state): return x + self.step.by + self.step.after.by
        with connect() as worker:
            worker.load({"add": Add(step=Step(by=2, after=Step(by=3)))})
            print(worker.forward("add", 1))

    if __name__ == "__main__":
        work()
    """
    assert run("stdio", source) == "6\n"


@pytest.mark.nightly
def test_a_class_that_a_filter_defines_is_one_class_for_its_host(run: Run) -> None:
    source = """
    class Make(soma.Filter):
        def forward(self, x, state):
            global Made
            try: Made
            except NameError:
                class Made:
                    def double(self): return self.v * 2
            made = Made(); made.v = 4
            return made, x is None or isinstance(x, Made)

    if __name__ == "__main__":
        with connect(filters={"make": Make()}) as worker:
            first, _ = worker.forward("make", None)
            second, known = worker.forward("make", first)
        print(type(first) is type(second), known, second.double())
    """
    assert run("stdio", source) == "True True 8\n"


SHARED = """
import dataclasses, enum, sys
import soma_core as soma

RATE = int(sys.argv[3])
def helper(x): return x * RATE

@dataclasses.dataclass
class Item:
    v: int
    def price(self): return helper(self.v)

class Color(enum.IntFlag):
    RED = 1
    ALSO_RED = 1

class Keep(soma.Filter):
    def fit(self, x, y=None): return Item(len(x))
    def forward(self, x, state): return isinstance(x, Item), state, Color.RED

if __name__ == "__main__":
    with soma.connect("socket", path=sys.argv[1], session="shared") as worker:
        if sys.argv[2] == "first":
            worker.load({"keep": Keep()})
            worker.fit("keep", [1, 2])
        known, state, color = worker.forward("keep", Item(5))
        print(known, isinstance(state, Item), color is Color.RED)
"""


@pytest.mark.nightly
def test_programs_that_define_the_same_share_its_classes_in_a_session(
    tmp_path: Path, shared_socket_daemon: object
) -> None:
    scripts = {"first.py": SHARED, "second.py": "# further down\n\n\n" + SHARED}
    for name, text in scripts.items():
        (tmp_path / name).write_text(text)

    def client(script: str, role: str, rate: int) -> str:
        command = [sys.executable, script, str(tmp_path / "s.sock"), role, str(rate)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    with socket_daemon(tmp_path / "s.sock"):
        assert client("first.py", "first", 1) == "True True True\n"
        assert client("first.py", "second", 1) == "True True True\n"
        assert client("second.py", "second", 1) == "True True True\n"
        # A class whose helper computes something else is another class.
        assert client("second.py", "second", 2) == "False False True\n"
        assert client("first.py", "first", 2) == "True True True\n"


class Way(enum.IntFlag):
    UP = 1


def test_pickling_an_object_does_not_change_what_its_class_is_compared_by() -> None:
    before = Signatures().of(Way)
    Pickles().dump(Way.UP)
    copy.copy(Way.UP)
    assert before
    assert Signatures().of(Way) == before


def test_a_class_of_attrs_is_compared_by_its_methods(run: Run) -> None:
    pytest.importorskip("attrs")
    source = """
    import attrs
    from soma_core.wire.definitions.signature import Signatures

    def positive(item, attribute, value): return value > 0

    @attrs.define
    class Item:
        v: int = attrs.field(validator=positive)

    if __name__ == "__main__":
        print(bool(Signatures().of(Item)))
    """
    assert run("inline", source) == "True\n"


def test_enumerations_types_and_annotations_of_a_script_work_in_its_workers(run: Run) -> None:
    source = """
    import contextvars, enum, fractions, functools
    from dataclasses import dataclass
    from typing import Callable, Generic, List, NewType, ParamSpec, TypeVar, TypeVarTuple, Union
    from typing import Unpack, get_type_hints
    import pydantic
    from typing_extensions import TypeAliasType

    P, R, Ts = ParamSpec("P"), TypeVar("R"), TypeVarTuple("Ts")
    Grams = NewType("Grams", int)

    class Size(enum.Enum):
        SMALL = ("s", 1)
        LARGE = ("l", 10)
        BIG = LARGE
        def __init__(self, label, factor):
            self.label, self.factor = label, factor

    class Code(bytes, enum.Enum):
        def __new__(cls, value, label):
            made = bytes.__new__(cls, [value])
            made._value_, made.label = value, label
            return made
        ONE = (1, "one")

    class Way(enum.Flag, boundary=enum.KEEP):
        UP = 1
        DOWN = 2
        BOTH = UP | DOWN

    # Before 3.11.4 Python cannot read a pickle of one whose bits have no names.
    SOME = Way(9 if sys.version_info >= (3, 11, 4) else 3)

    class Do(enum.Enum):
        ADD = enum.member(functools.partial(lambda a, b: a + b))

    class Described(type):
        def __new__(kind, name, bases, namespace, *, unit):
            made = super().__new__(kind, name, bases, namespace)
            made.unit = unit
            return made

    class Scale(metaclass=Described, unit="kg"):
        def __init_subclass__(cls, **options):  # it needs what the class holds
            super().__init_subclass__(**options)
            SCALES.append(cls.name)

    SCALES = []

    class Kitchen(Scale, unit="g"):
        name = "kitchen"

    def logged(f: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(f)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            return f(*args, **kwargs)
        return called

    class Pack(Generic[Unpack[Ts]]):
        pass

    @logged
    def weigh(n: int) -> Grams:
        return Grams(n * Size.BIG.factor)

    if sys.version_info >= (3, 12):
        exec("type Weight = int | list[Weight]")
        exec("type Nested[T] = T | list[Nested[T]]")
    else:
        Nested = list
        Weight = TypeAliasType("Weight", "int | list[Weight]")
    T = TypeVar("T")
    Many = TypeAliasType("Many", Union[T, List["Many[T]"]], type_params=(T,))

    class Tree(pydantic.BaseModel):
        many: Many[int]
        nested: Nested[int] = []

    unit = contextvars.ContextVar("unit", default="g")

    @dataclass
    class Lid:  # nothing but texts of annotations names it, nor what it names
        weight: "fractions.Fraction"

    @dataclass
    class Pot:
        lid: "Lid | None"
        weight: "Weight" = 0

    class Weigh(soma.Filter):
        size: Size = Size.SMALL
        def forward(self, x, state):
            assert Size["BIG"] is Size.LARGE and [s.label for s in Size] == ["s", "l"]
            assert Code(1) is Code.ONE and Code.ONE == b"\\1" and Code.ONE.label == "one"
            assert Way["BOTH"] is Way.UP | Way.DOWN and len(Way) == 2 and Way(8).value == 8
            assert Do.ADD.value(1, 2) == 3
            assert (Kitchen.unit, Scale.unit, SCALES) == ("g", "kg", ["kitchen"])
            pot = pydantic.TypeAdapter(Pot).validate_python({"lid": {"weight": "1/2"}})
            assert get_type_hints(Pot)["weight"] is Weight and pot.lid.weight == 0.5
            assert Tree(many=[1, [2]], nested=[3]).many == [1, [2]] and unit.get() == "g"
            return weigh(x), self.size, Code.ONE, SOME, Pack, Weight, unit

    if __name__ == "__main__":
        with connect(filters={"weigh": Weigh(size=Size.LARGE)}) as worker:
            weight, *came = worker.forward("weigh", 2)
        own = [Size.LARGE, Code.ONE, SOME, Pack, Weight, unit]
        print(weight, [a is b for a, b in zip(came, own)])
    """
    assert run("stdio", source) == "20 [True, True, True, True, True, True]\n"


def test_what_pydantic_checks_the_calls_of_takes_nothing_else_of_a_script_along(run: Run) -> None:
    source = """
    import threading
    from dataclasses import KW_ONLY, dataclass
    from typing import Annotated, get_type_hints
    from pydantic import BaseModel, Field, validate_call

    LIMIT, LOCK = 3, threading.Lock()
    POSITIVE = Field(gt=0)

    class Tree(BaseModel):
        children: list["Tree"] = []

    @validate_call(validate_return=True)
    def depth(tree: Tree, limit: "Annotated[int, Field(le=LIMIT), POSITIVE]" = 1) -> int:
        return 1 + max((depth(child) for child in tree.children), default=0)

    @dataclass
    class Run:
        name: str
        _: "KW_ONLY"
        limit: "Annotated[int, LIMIT]" = 1

    class Depth(soma.Filter):
        def forward(self, x, state):
            assert get_type_hints(Run, include_extras=True)["limit"].__metadata__ == (3,)
            return depth({"children": [{"children": [{}]}]}, x)

    if __name__ == "__main__":
        with connect(filters={"depth": Depth()}) as worker:
            print(worker.forward("depth", "3"))
            for limit in (4, 0):
                try:
                    worker.forward("depth", limit)
                except ValueError as error:
                    print(str(error).split("type=")[1].split(",")[0])
    """
    assert run("stdio", source) == "3\nless_than_equal\ngreater_than\n"


def test_closures_share_what_they_refer_to_within_one_object_alone(run: Run) -> None:
    source = """
    import weakref
    from functools import partial

    def counter():
        count = 0
        def step():
            nonlocal count
            count += 1
        return step, lambda: count

    class Counts:
        def __init__(self):
            self.count, self.seen = 0, {}
            self.add = lambda n: setattr(self, "count", self.count + n)
            self.hooks = [self.hook(name) for name in "ab"]
            self.step, self.steps = counter()
            self.myself = weakref.ref(self)
        def hook(self, name):
            def note(x):
                self.seen[name] = x
            return note
        def forward(self, x, state):
            self.add(x)
            for hook in self.hooks:
                hook(x)
            self.step()
            assert self.myself() is self
            return self.count, self.seen, self.steps()

    def call(step, steps):
        step()
        return steps()

    class Calls:
        def forward(self, x, state):
            return x() if callable(x) else call(*x)

    if __name__ == "__main__":
        with connect(filters={"counts": Counts(), "calls": Calls()}) as worker:
            print(worker.forward("counts", 1), worker.forward("counts", 2))
            print(worker.forward("calls", partial(call, *counter())))
            print(worker.forward("calls", counter()))
    """
    counted = "(1, {'a': 1, 'b': 1}, 1) (3, {'a': 2, 'b': 2}, 2)\n"
    assert run("stdio", source) == f"{counted}1\n0\n"


def test_a_closure_over_an_object_that_comes_back_uses_the_globals_of_the_script(run: Run) -> None:
    source = """
    calls = 0

    def closure(box):
        def use():
            global calls
            calls += 1
            return box
        return use

    class Gives(soma.Filter):
        def forward(self, x, state):
            x().append(2)
            return x

    if __name__ == "__main__":
        with connect(filters={"gives": Gives()}) as worker:
            use = worker.forward("gives", closure([1]))
            print(use(), calls, use.__globals__ is globals())
    """
    assert run("stdio", source) == "[1, 2] 1 True\n"
