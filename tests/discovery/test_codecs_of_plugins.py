"""A plugin adds a type, which travels as a typed value in both dialects and in both directions."""

from __future__ import annotations

import json
import logging
import os
import types
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import soma_core as soma
from soma_core.codecs import Codec, Encoded, Unencodable
from soma_core.errors import ErrorCode, PluginConflict, PluginLoadFailed, ProtocolError
from soma_core.plugins.manager import PluginSet
from soma_core.wire.added_types import Codecs
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.packing import pack
from soma_core.wire.pickles import Pickles
from soma_core.wire.readable import readable
from soma_core.wire.unpacking import unpack

from ..support import run_python
from ..support.installing import install, python_path
from ..support.plugins import plugin_set


class Signal:
    """A type of a plugin: samples, and how many there are in a second."""

    def __init__(self, samples: Any, rate: Any) -> None:
        self.samples, self.rate = samples, rate


def encode(signal: Signal) -> Encoded:
    if signal.rate == "unknown":
        raise Unencodable("a Signal without a rate cannot be kept whole")
    return Encoded({"rate": signal.rate}, [signal.samples])


def decode(data: Any, buffers: list[Any]) -> Signal:
    (samples,) = buffers
    return Signal(np.frombuffer(samples, "float32"), data["rate"])


def codec(**changes: Any) -> Codec:
    fields = {
        "name": "acme.Signal",
        "target": Signal,
        "encode": encode,
        "decode": decode,
        "distribution": "acme-soma",
    }
    return Codec(**(fields | changes))


def pickles(*codecs: Codec, allowed: bool = False) -> Pickles:
    return Pickles(allowed=allowed, codecs=Codecs(codecs))


def through_a_frame(value: Any, pickles: Pickles) -> Any:
    header, buffers = pack(value, pickles)
    return unpack(header, [bytearray(memoryview(buffer)) for buffer in buffers], pickles)


def through_a_line(value: Any, pickles: Pickles) -> Any:
    return LineDecoder(pickles=pickles).decode(
        json.loads(json.dumps(LineEncoder(pickles=pickles).encode(value)))
    )


SAMPLES = np.arange(6, dtype="float32")


@pytest.mark.parametrize("way", [through_a_frame, through_a_line])
def test_an_object_arrives_as_it_was_sent_wherever_it_stands_and_without_a_pickle(way) -> None:
    sent = {"here": [Signal(SAMPLES, 44_100)], "there": (Signal(SAMPLES[:0], None),)}
    found = way(sent, pickles(codec()))
    first, second = found["here"][0], found["there"][0]
    assert (type(first), first.rate, first.samples.tolist()) == (Signal, 44_100, SAMPLES.tolist())
    assert (second.rate, second.samples.size) == (None, 0)
    first.samples[0] = 9.0  # writable, and nobody else's
    assert SAMPLES[0] == 0.0


def test_in_a_frame_a_buffer_is_a_view_of_the_object() -> None:
    header, buffers = pack({"s": Signal(SAMPLES, 1)}, pickles(codec()))
    assert np.shares_memory(np.frombuffer(buffers[0], "float32"), SAMPLES)
    assert readable(header)["s"] == {
        "$soma": "codec",
        "codec": "acme.Signal",
        "distribution": "acme-soma",
        "data": {"rate": 1},
        "buffers": [0],
    }


def test_a_line_may_have_a_form_of_its_own() -> None:
    readable = codec(
        encode_line=lambda signal: Encoded(signal.samples.tolist()),
        decode=lambda data, buffers: data,
    )
    assert through_a_line(Signal(SAMPLES[:2], 1), pickles(readable)) == [0.0, 1.0]
    assert through_a_frame(Signal(SAMPLES[:2], 1), pickles(readable)) == {"rate": 1}


def test_what_a_codec_makes_may_hold_other_typed_values() -> None:
    nested = codec(encode=lambda s: Encoded([s.samples, s.rate]), decode=lambda d, b: Signal(*d))
    halves = Codec(
        "acme.Fraction",
        "fractions:Fraction",
        lambda f: Encoded((f.numerator, f.denominator)),
        lambda data, buffers: Fraction(*data),
        "acme-soma",
    )
    found = through_a_frame(Signal(SAMPLES, Fraction(1, 3)), pickles(nested, halves))
    assert (found.rate, found.samples.tolist()) == (Fraction(1, 3), SAMPLES.tolist())


def test_a_host_in_another_language_may_leave_out_what_the_codec_does_not_need() -> None:
    wire = {"$soma": "codec", "codec": "acme.Signal", "data": {"rate": 2}, "buffers": ["AACAPw=="]}
    assert LineDecoder(pickles=pickles(codec())).decode(wire).samples.tolist() == [1.0]


def test_an_object_of_a_derived_class_is_not_the_codecs() -> None:
    class Stereo(Signal):
        pass

    with pytest.raises(ProtocolError) as caught:
        LineEncoder(pickles=pickles(codec())).encode(Stereo(SAMPLES, 1))
    assert caught.value.code is ErrorCode.PICKLE_REFUSED


def test_a_type_that_is_named_is_found_when_its_module_is_imported_and_not_imported_for_it() -> (
    None
):
    absent = codec(target="no_such_module:Thing", name="acme.Thing")
    named = codec(target=f"{__name__}:Signal")
    assert through_a_line(Signal(SAMPLES, 1), pickles(absent, named)).rate == 1


def test_where_the_other_side_lacks_the_codec_the_object_is_pickled_as_ever() -> None:
    limited = pickles(codec(), allowed=True)
    limited.codecs.limit_to([])
    assert "__pickle_b64__" in LineEncoder(pickles=limited).encode(Signal(SAMPLES, 1))


def test_for_several_hosts_a_worker_encodes_with_what_all_of_them_have() -> None:
    shared = pickles(codec(), codec(name="acme.Fraction", target=Fraction)).codecs
    first, second = shared.get("acme.Signal"), shared.get("acme.Fraction")
    shared.limit_to(["acme.Signal", "acme.Fraction", "other"])
    assert shared.shares(first)
    assert shared.shares(second)
    shared.limit_to(["acme.Fraction"])
    shared.limit_to(["acme.Signal", "acme.Fraction"])
    assert not shared.shares(first)
    assert shared.shares(second)


def test_where_it_may_not_be_pickled_the_error_says_what_to_install() -> None:
    limited = pickles(codec())
    limited.codecs.limit_to(["other"])
    with pytest.raises(ProtocolError, match=r"'acme\.Signal'.*pip install acme-soma") as caught:
        pack(Signal(SAMPLES, 1), limited)
    assert caught.value.code is ErrorCode.PICKLE_REFUSED


def test_a_value_of_a_codec_that_is_not_here_is_refused_with_what_to_install() -> None:
    wire = LineEncoder(pickles=pickles(codec())).encode(Signal(SAMPLES, 1))
    with pytest.raises(ProtocolError, match=r"'acme\.Signal'.*pip install acme-soma") as caught:
        LineDecoder(pickles=pickles()).decode(wire)
    assert caught.value.code is ErrorCode.INVALID_COMMAND


def test_an_object_that_its_codec_cannot_keep_whole_is_pickled_or_refused_with_the_reason() -> None:
    odd = Signal(SAMPLES, "unknown")
    assert "__pickle_b64__" in LineEncoder(pickles=pickles(codec(), allowed=True)).encode(odd)
    with pytest.raises(ProtocolError, match="without a rate") as caught:
        LineEncoder(pickles=pickles(codec())).encode(odd)
    assert caught.value.code is ErrorCode.PICKLE_REFUSED


def fail(*arguments: Any) -> Any:
    raise SystemExit("broken")


@pytest.mark.parametrize(
    ("encode", "said"),
    [
        (fail, "SystemExit: broken"),
        (lambda signal: b"", "returns an Encoded"),
        (lambda signal: Encoded(signal), "got the object"),
        (lambda signal: Encoded(buffers=["text"]), "TypeError"),
        (lambda signal: Encoded(buffers=[np.arange(9)[::2]]), "contiguous"),
    ],
)
def test_a_broken_encode_fails_its_call_and_is_named(encode, said) -> None:
    with pytest.raises(ProtocolError, match=said) as caught:
        pack(Signal(SAMPLES, 1), pickles(codec(encode=encode)))
    assert "'acme.Signal' of acme-soma" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"buffers": []},
        {"data": None},
        {"buffers": ["not base64!"]},
        {"buffers": 3},
        {"codec": 3},
        {"colour": "red"},
    ],
    ids=lambda changes: "-".join(map(str, *changes.items())),
)
def test_a_value_that_is_not_well_formed_is_an_invalid_command(changes) -> None:
    good = LineEncoder(pickles=pickles(codec())).encode(Signal(SAMPLES, 1))
    with pytest.raises(ProtocolError) as caught:
        LineDecoder(pickles=pickles(codec())).decode(good | changes)
    assert caught.value.code is ErrorCode.INVALID_COMMAND


def test_an_encode_that_never_ends_ends_at_the_limit_of_nesting() -> None:
    endless = pickles(codec(encode=lambda signal: Encoded([Signal(SAMPLES, 1)])))
    for write in (LineEncoder(pickles=endless).encode, lambda signal: pack(signal, endless)):
        with pytest.raises(ProtocolError, match="levels deep") as caught:
            write(Signal(SAMPLES, 1))
        assert caught.value.code is ErrorCode.TOO_LARGE


def module(outcome: Any) -> types.SimpleNamespace:
    @soma.hookimpl
    def soma_register_codecs() -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return types.SimpleNamespace(soma_register_codecs=soma_register_codecs)


def plugins_with(environment: dict[str, str] | None = None, **returned: Any) -> PluginSet:
    """Plugins whose hook returns, or raises, what is given."""
    modules = {name: module(outcome) for name, outcome in returned.items()}
    return plugin_set(environment, **modules)


MISFITS = [
    (None, PluginLoadFailed, "returns a list of Codec, got None"),
    ([codec], PluginLoadFailed, "returns a list of Codec"),
    ([codec(name="")], PluginLoadFailed, "a Codec has a name"),
    ([codec(name=3)], PluginLoadFailed, "a Codec has a name"),
    ([codec(target="pandas.DataFrame")], PluginLoadFailed, "a target that is a class or its place"),
    ([codec(target=Signal(1, 2))], PluginLoadFailed, "a target that is a class or its place"),
    ([codec(encode="no")], PluginLoadFailed, "to call"),
    ([codec(encode_line="no")], PluginLoadFailed, "to call"),
    ([codec(distribution="")], PluginLoadFailed, "distribution to install"),
    ([codec(target=dict)], PluginConflict, "builtins:dict, which travels"),
    ([codec(target="numpy:ndarray")], PluginConflict, "numpy:ndarray, which travels"),
    ([codec(), codec(target=Fraction)], PluginConflict, "choose another name"),
    ([codec(), codec(name="other")], PluginConflict, "uninstall one"),
    (RuntimeError("no luck"), PluginLoadFailed, "soma_register_codecs: no luck"),
]


@pytest.mark.parametrize(("returned", "error", "said"), MISFITS, ids=range(len(MISFITS)))
def test_what_does_not_fit_keeps_its_plugin_out_and_no_other(returned, error, said) -> None:
    good = codec()
    plugins = plugins_with(a=returned, b=[good])
    assert type(plugins.failures["a"]) is error
    assert said in str(plugins.failures["a"])
    assert "'a'" in str(plugins.failures["a"])
    assert plugins.codecs == [good]


def test_two_plugins_with_one_name_conflict_and_the_first_has_it() -> None:
    first, second = codec(), codec(target=Fraction, distribution="beta-soma")
    plugins = plugins_with(a=[first], b=[second])
    assert plugins.codecs == [first]
    assert type(plugins.failures["b"]) is PluginConflict
    for named in ("acme-soma", "beta-soma", "'acme.Signal'"):
        assert named in str(plugins.failures["b"])


def test_a_plugin_whose_codecs_do_not_fit_adds_no_commands_either() -> None:
    calls = []
    both = module(None)

    @soma.hookimpl
    def soma_register_commands() -> list[Any]:
        calls.append("asked")
        return []

    both.soma_register_commands = soma_register_commands
    plugins = plugin_set(both=both)
    assert calls == ["asked"]
    assert list(plugins.failures) == ["both"]
    assert plugins.commands == []


def test_in_strict_mode_the_first_broken_plugin_raises(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING, "soma.plugins"):
        assert list(plugins_with(a=None, b=[codec()]).failures) == ["a"]
    with pytest.raises(PluginLoadFailed, match="'a'"):
        plugins_with({"SOMA_STRICT_PLUGINS": "1"}, a=None, b=[codec()])


PLUGIN = """
import soma_core as soma
from soma_core.codecs import Codec, Encoded

class Celsius:
    def __init__(self, degrees):
        self.degrees = degrees

@soma.hookimpl
def soma_register_codecs():
    return [
        Codec("acme.Celsius", Celsius, lambda c: Encoded(c.degrees),
              lambda data, buffers: Celsius(data), "acme-soma")
    ]
"""

FILTER = """
import acme
import soma_core as soma

class Warmer(soma.Filter):
    def forward(self, x, state):
        return acme.Celsius(x.degrees + 1)
"""

HOST = """
import os, sys, soma_core as soma
lacking = sys.argv[1]
env = {"SOMA_DISABLE_PLUGIN_AUTOLOAD": "1" if lacking == "worker" else ""}
import acme
def ask(pickle):
    with soma.connect("stdio", filters={"warm": ("acme.Warmer", {})}, pickle=pickle, env=env) as w:
        return w.forward("warm", acme.Celsius(20)).degrees
if lacking == "nobody":
    assert ask("never") == ask("same-user") == 21
else:
    assert ask("same-user") == 21
    try:
        ask("never")
    except soma.SomaError as error:
        print(type(error).__name__, error)
print("done")
"""


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    """Where the plugin is installed, as an installer leaves it."""
    entry_points = {
        "soma.plugins": {"acme": "acme"},
        "soma.filters": {"acme.Warmer": "acme_filters:Warmer"},
    }
    install(tmp_path, "acme", entry_points, {"acme": PLUGIN, "acme_filters": FILTER})
    return {**os.environ, "PYTHONPATH": python_path(tmp_path)}


@pytest.mark.nightly
def test_both_directions_work_where_both_sides_have_the_codec(environment, tmp_path) -> None:
    assert run_python(HOST, "nobody", directory=tmp_path, env=environment).stdout == "done\n"


@pytest.mark.nightly
def test_a_worker_without_the_codec_gets_pickles_or_the_host_says_what_it_lacks(
    environment, tmp_path
) -> None:
    said = run_python(HOST, "worker", directory=tmp_path, env=environment).stdout
    assert said.startswith("ProtocolError")
    assert "pip install acme-soma" in said


CHECK = """
import json, subprocess, sys
def soma(*arguments, text=""):
    return subprocess.run([sys.executable, "-m", *arguments], input=text,
                          capture_output=True, text=True)
rows = json.loads(soma("soma_core.cli", "plugins", "acme", "--json").stdout)
assert [row["codecs"] for row in rows if row["group"] == "soma.plugins"] == [["acme.Celsius"]]
assert "codecs acme.Celsius" in soma("soma_core.cli", "plugins", "acme").stdout
value = {"$soma": "codec", "codec": "acme.Celsius", "data": 20}
line = json.dumps({"cmd": "FORWARD", "node_id": "warm", "data": value})
assert soma("soma_core.cli", "validate", "-", text=line).returncode == 0
unknown = soma("soma_core.cli", "validate", "-", text=line.replace("acme.C", "acme.K"))
assert unknown.returncode != 0 and "acme.Kelsius" in unknown.stdout + unknown.stderr
load = json.dumps({"cmd": "LOAD", "filters": [{"id": "warm", "filter": "acme.Warmer"}]})
client = {"name": "x", "soma": "", "python": "", "cloudpickle": ""}
hello = json.dumps({"cmd": "HELLO", "protocol": 1, "client": client, "codecs": []})
lines = "\\n".join([load, line, hello, line])
daemon = soma("soma_transport_stdio", "--pickle", "never", text=lines + "\\n")
_, warmed, greeted, refused = map(json.loads, daemon.stdout.splitlines())
assert warmed["result"]["data"] == 21 and warmed["result"]["codec"] == "acme.Celsius", warmed
assert "acme.Celsius" in greeted["codecs"], greeted
assert refused["code"] == "pickle_refused" and "pip install acme-soma" in refused["error"], refused
print("done")
"""


@pytest.mark.nightly
def test_the_codec_is_in_plugins_in_hello_in_validate_and_in_lines(environment, tmp_path) -> None:
    assert run_python(CHECK, directory=tmp_path, env=environment).stdout == "done\n"
