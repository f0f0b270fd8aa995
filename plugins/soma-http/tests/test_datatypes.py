"""Every datatype of the Open Inference Protocol, in JSON and in binary."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from soma_http.server.inference.datatypes import from_binary, from_json
from soma_http.server.inference.messages import Datatype, TensorMetadata
from soma_http.server.inference.reading import ReadRequest, read_request
from soma_http.server.inference.writing import write_answer
from soma_http.server.refusals import Refusal

SHAPE = [1, 3]
NUMBERS: dict[str, list[Any]] = {
    "BOOL": [True, False, True],
    "UINT8": [0, 255, 7],
    "UINT16": [0, 65535, 7],
    "UINT32": [0, 2**32 - 1, 7],
    "UINT64": [0, 2**64 - 1, 2**53 + 1],
    "INT8": [-128, 127, 0],
    "INT16": [-32768, 32767, 0],
    "INT32": [-(2**31), 2**31 - 1, 0],
    "INT64": [-(2**63), 2**63 - 1, 2**53 + 1],
    "FP16": [0.5, -65504.0, 0.25],
    "FP32": [0.5, -(2.0**127), 2.0**-126],
    "FP64": [0.1, -1e308, 5e-324],
    "BF16": [1.0, -2.5, 2.0**127],
    "BYTES": ["text", "", "ünïcode\0"],
}


def declared(datatype: str) -> list[TensorMetadata]:
    return [TensorMetadata.model_validate({"name": "x", "datatype": datatype, "shape": [-1, 3]})]


def body(datatype: str, shape: Any = SHAPE, **fields: Any) -> bytes:
    one = {"name": "x", "shape": shape, "datatype": datatype, **fields}
    return json.dumps({"id": "7", "inputs": [one]}).encode()


def read(datatype: str, data: Any, shape: Any = SHAPE) -> ReadRequest:
    return read_request(body(datatype, shape, data=data), None, [])


def in_binary(datatype: str) -> tuple[bytes, bytes]:
    """The JSON of an answer that returns the numbers, and the bytes after it."""
    asked = replace(read(datatype, NUMBERS[datatype]), binary_outputs=True)
    answer = write_answer(asked.tensors["x"], asked, "m", "1", declared(datatype))
    return answer.body[: answer.json_size], answer.body[answer.json_size :]


def plain(tensor: Any) -> Any:
    """A tensor of one row as a list."""
    [row] = tensor.tolist() if isinstance(tensor, np.ndarray) else tensor
    return row


@pytest.mark.parametrize("datatype", get_args(Datatype))
def test_json_goes_through_a_model_unchanged(datatype):
    asked = read(datatype, NUMBERS[datatype])
    answer = write_answer(asked.tensors["x"], asked, "m", "1", declared(datatype))
    fields = json.loads(answer.body)
    assert (fields["model_name"], fields["model_version"], fields["id"]) == ("m", "1", "7")
    [output] = fields["outputs"]
    assert (output["datatype"], output["shape"]) == (datatype, SHAPE)
    assert output["data"] == NUMBERS[datatype]


@pytest.mark.parametrize("datatype", get_args(Datatype))
def test_binary_goes_through_a_model_unchanged(datatype):
    head, data = in_binary(datatype)
    [output] = json.loads(head)["outputs"]
    assert output["parameters"] == {"binary_data_size": len(data)}
    sent = body(datatype, parameters=output["parameters"])
    asked = read_request(sent + data, str(len(sent)), declared(datatype))
    assert plain(asked.tensors["x"]) == NUMBERS[datatype]


@pytest.mark.parametrize("datatype", get_args(Datatype))
def test_nested_data_are_the_same_as_flat_ones(datatype):
    numbers = NUMBERS[datatype]
    flat, nested = (read(datatype, data).tensors["x"] for data in (numbers, [numbers]))
    assert plain(flat) == plain(nested) == numbers


@pytest.mark.parametrize("datatype", [name for name in get_args(Datatype) if name != "BYTES"])
def test_arrays_have_the_type_that_the_request_names(datatype):
    wanted = {"BOOL": "bool", "BF16": "float32"}.get(datatype)
    found = str(from_json("x", datatype, SHAPE, NUMBERS[datatype]).dtype)
    assert found == (wanted or datatype.lower().replace("fp", "float"))


def test_null_is_nan_both_ways():
    asked = read("FP32", [None, 1.5, 2])
    assert np.isnan(asked.tensors["x"][0, 0])
    answer = write_answer(asked.tensors["x"], asked, "m", "1", [])
    assert json.loads(answer.body)["outputs"][0]["data"] == [None, 1.5, 2.0]


def test_null_stands_for_parameters_and_outputs_that_are_not_there():
    one = {"name": "x", "shape": [1], "datatype": "INT8", "data": [1], "parameters": None}
    sent = json.dumps({"inputs": [one], "outputs": None, "parameters": None}).encode()
    assert read_request(sent, None, []).tensors["x"].tolist() == [1]


def test_an_output_without_elements_has_the_type_that_the_model_declares():
    asked = read("BYTES", NUMBERS["BYTES"])
    [output] = json.loads(write_answer([], asked, "m", "1", declared("BYTES")).body)["outputs"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [0])


def test_bytes_that_are_no_text_come_as_they_are_if_asked_for():
    data = b"\x02\0\0\0\xff\0"
    parameters = {"binary_data_size": len(data)}
    sent = body("BYTES", [1], parameters=parameters)
    with pytest.raises(Refusal, match="content_type"):
        read_request(sent + data, str(len(sent)), [])
    sent = body("BYTES", [1], parameters=parameters | {"content_type": "raw"})
    asked = read_request(sent + data, str(len(sent)), [])
    assert asked.tensors["x"] == [b"\xff\0"]
    with pytest.raises(Refusal, match="binary_data"):  # JSON would hold something else
        write_answer(asked.tensors["x"], asked, "m", "1", [])


@pytest.mark.parametrize(
    ("datatype", "data", "shape", "said"),
    [
        ("FP32", [1.0, 2.0], [1, 3], "has 3 elements, and there are 2"),
        ("INT8", [1, 300, 2], [3], "between -128 and 127"),
        ("INT32", [1.5, 2, 3], [3], "with a fraction"),
        ("BOOL", [1, 0, 1], [3], "whole numbers"),
        ("FP32", ["1", "2", "3"], [3], "texts"),
        ("FP16", [1e6], [1], "too large for FP16"),
        ("UINT64", [2**64], [1], "between 0 and 18446744073709551615"),
        ("FP32", [[1, 2], [3]], [3], "FP32"),
        ("UINT64", [-1, 2**64 - 1], [2], "UINT64"),
        ("BYTES", ["a", 1], [2], "one is 1"),
        ("BYTES", ["a"], [2], "has 2 elements, and there are 1"),
        ("FP32", None, [1], "neither data nor the parameter"),
        ("FP99", [1], [1], "inputs.0.datatype"),
        ("FP32", [1], [-1], "inputs.0.shape.0"),
        ("FP32", [1], ["1"], "inputs.0.shape.0"),
        ("FP32", [{"a": 1}], [1], "FP32"),
        ("FP32", [], [0, 2**40, 2**40], "larger than a body of"),
        ("BYTES", [], [2**40, 0], "larger than a body of"),
    ],
)
def test_data_that_do_not_fit_are_refused(datatype, data, shape, said):
    with pytest.raises(Refusal, match=said):
        read(datatype, data, shape)


@pytest.mark.parametrize(
    ("size", "parameters", "data", "said"),
    [
        ("99999", {"binary_data_size": 12}, bytes(12), "and the body has"),
        ("-1", {"binary_data_size": 12}, bytes(12), "and the body has"),
        (None, {"binary_data_size": 13}, bytes(12), "12 bytes are left"),
        (None, {"binary_data_size": True}, bytes(12), "binary_data_size is True"),
        (None, {"binary_data_size": 8}, bytes(8), "has 12 bytes, and there are 8"),
        (None, {"binary_data_size": 12}, bytes(13), "belong to no input"),
    ],
)
def test_binary_data_that_do_not_fit_are_refused(size, parameters, data, said):
    sent = body("FP32", parameters=parameters)
    with pytest.raises(Refusal, match=said):
        read_request(sent + data, size or str(len(sent)), [])


@pytest.mark.parametrize("data", [b"\1", b"\5\0\0\0abc", b"\xff\xff\xff\xff"])
def test_elements_that_are_cut_off_are_refused(data):
    with pytest.raises(Refusal, match=r"cut off|beyond"):
        from_binary("x", "BYTES", [1], memoryview(data))


@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        (np.float32(2.5), {"output": ("FP32", [1])}),
        ([1, 2], {"output": ("INT64", [2])}),
        ("yes", {"output": ("BYTES", [1])}),
        ({"a": np.zeros((2, 0), "u1"), "b": True}, {"a": ("UINT8", [2, 0]), "b": ("BOOL", [1])}),
        ((1.0, ["x"]), {"output_0": ("FP64", [1]), "output_1": ("BYTES", [1])}),
        (np.array(["ab", "c"]), {"output": ("BYTES", [2])}),
        ([{"a": 1}], {"output": ("BYTES", [1])}),
    ],
)
def test_whatever_a_model_returns_has_a_name_and_a_datatype(result, outputs):
    fields = json.loads(write_answer(result, read("FP32", [1, 2, 3]), "m", "1", []).body)
    found = {one["name"]: (one["datatype"], one["shape"]) for one in fields["outputs"]}
    assert found == outputs


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (np.zeros(2, complex), "a ndarray of complex128"),
        (SimpleNamespace(toarray=lambda: np.eye(2)), "a SimpleNamespace"),
        ("\ud800", "no Unicode"),
        ({"\ud800": 1}, r"name '\\ud800' is no Unicode"),
    ],
    ids=["complex", "sparse", "no text", "no name"],
)
def test_what_has_no_datatype_is_an_error_of_the_model(result, said):
    with pytest.raises(Refusal, match=said) as caught:
        write_answer(result, read("FP32", [1, 2, 3]), "m", "1", [])
    assert caught.value.status == 500


def test_only_the_outputs_that_are_asked_for_come():
    asked = json.loads(body("FP32", data=[1, 2, 3]))
    asked["outputs"] = [{"name": "b", "parameters": {"binary_data": True}}]
    request = read_request(json.dumps(asked).encode(), None, [])
    answer = write_answer({"a": 1, "b": np.arange(2, dtype="i2")}, request, "m", "1", [])
    assert answer.body[answer.json_size :] == b"\0\0\1\0"
    with pytest.raises(Refusal, match="no output 'b'; it has a"):
        write_answer({"a": 1}, request, "m", "1", [])


def test_inputs_are_those_that_the_model_declares():
    wanted = declared("FP32")
    for sent, said in (
        (body("FP64", data=[1, 2, 3]), "takes FP32"),
        (body("FP32", [3], data=[1, 2, 3]), "shape"),
        (body("FP32", [1, 2], data=[1, 2]), "shape"),
        (body("FP32", data=[1, 2, 3]).replace(b'"x"', b'"y"'), "no input 'y'; it has x"),
    ):
        with pytest.raises(Refusal, match=said):
            read_request(sent, None, wanted)
