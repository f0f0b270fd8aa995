"""torch tensors of every element type and layout, through both dialects, to the last bit."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.wire.line_codec import LineDecoder as Decoder
from soma_core.wire.line_codec import LineEncoder

torch = pytest.importorskip("torch")

DTYPES = [
    "float32",
    "float64",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex64",
    "complex128",
    "bool",
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
]


def filled(dtype: str, shape: tuple[int, ...]) -> Any:
    count = int(np.prod(shape))
    return (torch.arange(count) % 7 * 0.75 + 0.5).reshape(shape).to(getattr(torch, dtype))


def arrives(wire: Any, identical: Any, tensor: Any) -> Any:
    before = tensor.detach().clone()
    arrived = wire(tensor)
    assert type(arrived) is torch.Tensor
    assert identical(arrived, before)
    assert not arrived.requires_grad
    assert arrived.device.type == "cpu"
    if arrived.numel():
        arrived.zero_()
    assert identical(tensor.detach(), before)
    return arrived


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_type_arrives_in_every_shape(wire: Any, identical: Any, dtype: str) -> None:
    for shape in [(), (0,), (3,), (2, 3), (2, 0, 3)]:
        arrives(wire, identical, filled(dtype, shape))


LAYOUTS: dict[str, Any] = {
    "transposed": lambda t: t.T,
    "every other": lambda t: t[::2, 1:],
    "expanded": lambda t: t[:1].expand(4, 3),
    "flipped": lambda t: t.flip(0),
    "a column": lambda t: t[:, 1],
    "one element": lambda t: t[2, 2],
    "one element of a column": lambda t: t[:1, 1],
    "no elements": lambda t: t[4:],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int64"])
def test_every_memory_layout_arrives(wire: Any, identical: Any, dtype: str, layout: str) -> None:
    arrives(wire, identical, LAYOUTS[layout](filled(dtype, (4, 3))))


def test_conjugated_and_negated_views_arrive_resolved(wire: Any, identical: Any) -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j])
    assert identical(wire(numbers.conj()), numbers.conj().resolve_conj())
    assert identical(wire(numbers.conj().imag), torch.tensor([-2.0, 4.0]))


def test_a_tensor_that_requires_gradients_arrives_without_its_graph(
    wire: Any, identical: Any
) -> None:
    leaf = torch.ones(3, requires_grad=True)
    for tensor in (leaf, leaf * 2):
        arrived = wire(tensor)
        assert identical(arrived.detach(), tensor.detach())
        assert arrived.grad_fn is None
        assert arrived.requires_grad == (tensor is leaf and not wire.is_line)


@pytest.mark.parametrize("layout", ["transposed", "channels last"])
def test_a_tensor_keeps_the_order_of_its_axes_in_memory_in_frames(frame: Any, layout: str) -> None:
    tensor = torch.arange(48.0).reshape(1, 3, 4, 4)
    last = tensor.to(memory_format=torch.channels_last)
    sent = tensor.transpose(1, 3) if layout == "transposed" else last
    arrived = frame(sent)
    assert arrived.stride() == sent.stride()
    assert torch.equal(arrived, sent)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_numbers_that_are_not_finite_arrive(wire: Any, identical: Any, dtype: str) -> None:
    arrives(
        wire,
        identical,
        torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0]).to(getattr(torch, dtype)),
    )


def test_nan_payloads_arrive(wire: Any) -> None:
    bits = torch.tensor([0x7F800001, 0x7FC0BEEF], dtype=torch.int32)
    assert wire(bits.view(torch.float32)).view(torch.int32).tolist() == bits.tolist()


def test_tensors_nested_in_data_arrive_as_tensors(wire: Any, identical: Any) -> None:
    state = {"w": torch.ones(2), "steps": [torch.tensor(3), 4], "b": np.ones(2)}
    assert identical(wire(state), state)


def test_tensors_that_are_not_plain_arrive_as_objects(wire: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    assert type(wire(parameter)) is torch.nn.Parameter
    sparse = torch.tensor([[0.0, 1.0]]).to_sparse()
    assert wire(sparse).to_dense().tolist() == [[0.0, 1.0]]


def test_lines_of_composites_write_tensors_as_nested_lists() -> None:
    encoder = LineEncoder(tensors_as_lists=True)
    assert encoder.encode(torch.tensor([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]
    assert encoder.encode(torch.tensor(1.5, requires_grad=True)) == 1.5
    assert encoder.encode({"a": torch.tensor([True])}) == {"a": [True]}
    text = json.dumps(encoder.encode(torch.tensor([float("nan")])), allow_nan=False)
    assert json.loads(text) == [{"$soma": "float", "value": "nan"}]


def tagged(**data: Any) -> dict[str, Any]:
    return {"type": "Tensor", "data": {"container": "torch", **data}}


def test_a_json_host_may_write_a_tensor_by_hand(identical: Any) -> None:
    wire = tagged(dtype="float32", shape=[3], values=[1, 2.5, None])
    expected = torch.tensor([1.0, 2.5, float("nan")])
    assert identical(Decoder().decode(wire), expected)


@pytest.mark.parametrize(
    "data",
    [
        {"dtype": "float33", "shape": [1], "values": [1]},
        {"dtype": "nn", "shape": [1], "values": [1]},
        {"dtype": [["a", "<f4"]], "shape": [1], "values": [1]},
        {"dtype": "float32", "shape": [2], "values": [1]},
        {"dtype": "float32", "shape": [1], "b64": "AAA="},
        {"dtype": "int64", "shape": [1], "values": ["a"]},
        {"dtype": "int8", "shape": [1], "values": [10**30]},
        {"dtype": "int8", "shape": [1], "values": [None]},
        {"dtype": "float32", "shape": [10**30, 0], "b64": ""},
        {"dtype": "float32", "shape": [2**62, 2**62, 0], "b64": ""},
        {"dtype": "float32", "shape": [2**62, 2**62, 0], "values": []},
    ],
    ids=str,
)
def test_a_tensor_that_cannot_be_is_refused_as_such(data: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="Tensor is not well formed") as caught:
        Decoder().decode(tagged(**data))
    assert caught.value.code is ErrorCode.INVALID_COMMAND


@pytest.mark.parametrize("dtype", ["quint8", "qint8", "qint32", "quint4x2", "quint2x4"])
def test_element_types_that_need_more_than_bytes_are_refused_before_they_crash_the_process(
    dtype: str,
) -> None:
    """Laid over bytes, a quantized tensor ends the process at its first use: no quantizer."""
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    size = getattr(torch, dtype).itemsize
    b64 = {1: "AA==", 4: "AAAAAA=="}[size]
    with pytest.raises(ProtocolError, match=dtype):
        Decoder().decode(tagged(dtype=dtype, shape=[1], b64=b64))


def test_a_torch_tensor_is_refused_in_words_where_torch_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ProtocolError, match=r"soma-core\[torch\]"):
        Decoder().decode(tagged(dtype="float32", shape=[1], values=[1]))
