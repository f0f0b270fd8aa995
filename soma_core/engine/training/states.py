"""GET_STATE and SET_STATE: what a node's object holds, as bytes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import partial
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError

from soma_core.engine.loading import configuring
from soma_core.engine.nodes import Node
from soma_core.engine.training import tensors
from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.filters import Filter
from soma_core.models.fingerprint import fields_of, fingerprint
from soma_core.models.validation_errors import describe
from soma_core.protocol.commands import StateFormat
from soma_core.wire.json_text import read_json, write_json
from soma_core.wire.line_codec import LineDecoder, LineEncoder
from soma_core.wire.pickles import Pickles
from soma_core.wire.weights import dump_weights, load_weights


def default_format(node: Node, pickles: Pickles) -> StateFormat:
    """The format of a node's state where a command names none."""
    if callable(getattr(node.obj, "state_dict", None)):
        return "torch"
    return "cloudpickle" if pickles.allowed else "value"


def get_state(node: Node, format: StateFormat, pickles: Pickles) -> bytes:
    """What the object of a node holds.

    Raises:
        ProtocolError: ``invalid_state``: the object has no state of that format;
            ``pickle_refused``.
    """
    if format == "torch":
        return _save_weights(node)
    if format == "torch_pickle":
        return _pickled(node, pickles, _state_dict(node, format))
    if format == "safetensors":
        return _save_safetensors(node, _state_dict(node, format))
    if format == "value":
        return _save_fields(node, pickles.typed_only())
    return _pickled(node, pickles, node.call(_without_privates, node.obj))


def get_usual_state(node: Node, pickles: Pickles, *, full: bool) -> tuple[StateFormat, bytes]:
    """What the object of a node holds, and the format of that, where none is asked for.

    A full state of a filter are its fields: what it learned is not in itself, so that no pickle of
    it is needed where they can be written down. A ``state_dict`` that is more than weights, as that
    of a quantized module, is pickled.

    Raises:
        ProtocolError: As :func:`get_state`.
    """
    format = default_format(node, pickles)
    if format == "cloudpickle" and full and isinstance(node.obj, Filter):
        with suppress(ProtocolError):
            return "value", get_state(node, "value", pickles)
    if format == "torch":
        data = _weights_alone(node, pickles)
        if data is not None:
            return format, data
        format = "torch_pickle"
    return format, get_state(node, format, pickles)


def get_weights(nodes: Iterable[Node], pickles: Pickles) -> dict[str, bytes]:
    """The ``state_dict`` of each node whose one is weights alone, in torch's format."""
    weighing = [node for node in nodes if callable(getattr(node.obj, "state_dict", None))]
    found = {node.node_id: _weights_alone(node, pickles) for node in weighing}
    return {node_id: data for node_id, data in found.items() if data is not None}


def learned_inside(nodes: Iterable[Node]) -> dict[str, Any]:
    """What a reply says of nodes that learned inside of their objects; nothing without one."""
    found = [node.node_id for node in nodes if node.learned_inside]
    return {"in_objects": found} if found else {}


def configuration(node: Node) -> dict[str, Any] | None:
    """How a filter is configured, as JSON; None for any other object.

    Of a field that JSON cannot hold it has a hash of the content, or the type alone.
    """
    if not isinstance(node.obj, Filter):
        return None
    aliases = {name: field.alias for name, field in type(node.obj).model_fields.items()}
    return {aliases.get(name) or name: _as_json(node.obj, name) for name in _fields(node.obj)}


def _as_json(obj: Filter, name: str) -> Any:
    try:
        (value,) = obj.model_dump(mode="json", include={name}).values()
        return value
    except Exception:  # a serializer of the user's may raise anything
        value = getattr(obj, name)
    try:
        return f"sha256:{fingerprint(value)}"
    except TypeError:
        return f"a {type(value).__qualname__}"


def set_state(node: Node, data: bytes, format: StateFormat, pickles: Pickles) -> None:
    """Put back what :func:`get_state` returned.

    Raises:
        ProtocolError: ``invalid_state``: it does not fit the object, and :func:`snapshot` can put
            back what that was; ``pickle_refused``.
    """
    if format == "cloudpickle":
        take_over(node, _unpickled_filter(node, data, pickles))
    elif format == "torch_pickle":
        _load_state_dict(node, _unpickled(node, data, pickles))
    elif format == "value":
        with configuring(pickles):
            _load_fields(node, data, pickles.typed_only())
    else:
        read = read_weights if format == "torch" else _load_safetensors
        _load_state_dict(node, read(node, data))
    node.hold(node.obj)  # it may declare other schemas now


def snapshot(node: Node) -> Callable[[], None]:
    """What a node's object holds now; calling it puts that back."""
    obj, fields = node.obj, dict(getattr(node.obj, "__dict__", {}))
    weighs = callable(getattr(obj, "load_state_dict", None))
    weights = _copy(node.call(obj.state_dict)) if weighs else None

    def undo() -> None:
        if hasattr(obj, "__dict__"):
            vars(obj).clear()
            vars(obj).update(fields)
        if weights is not None:
            _put_back(obj, weights)
        node.hold(obj)

    return undo


def _copy(weights: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return deepcopy(weights)
    except Exception:  # a tensor that was computed from others
        return {name: value.detach().clone() for name, value in _tensors(weights).items()}


def _put_back(obj: Any, weights: Mapping[str, Any]) -> None:
    """What a module packs, as a quantized one does, is in no tensor that could be written to."""
    try:
        obj.load_state_dict(weights)
    except Exception:  # it cannot load what it returned
        tensors.put(_tensors(obj.state_dict()), _tensors(weights))


def _tensors(weights: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in weights.items() if tensors.is_tensor(value)}


def invalid_state(node: Node, message: str) -> ProtocolError:
    """What is raised where a node's state is not valid: ``invalid_state``."""
    return ProtocolError(
        ErrorCode.INVALID_STATE, f"node {node.node_id!r}: {message}", node_id=node.node_id
    )


def _weights_alone(node: Node, pickles: Pickles) -> bytes | None:
    """The ``state_dict`` in torch's format; None if it is more than weights, and may be pickled."""
    try:
        return _save_weights(node)
    except ProtocolError as error:
        if error.code is ErrorCode.PICKLE_REFUSED and pickles.allowed:
            return None
        raise


def _save_weights(node: Node) -> bytes:
    weights = _state_dict(node, "torch")
    _imported(node, "torch", "torch")
    try:
        return dump_weights(weights)
    except ProtocolError as error:
        raise ProtocolError(
            error.code,
            f"node {node.node_id!r}: {error}; use the format torch_pickle, where pickles are "
            "allowed",
            node_id=node.node_id,
        ) from None


def _state_dict(node: Node, format: str) -> Any:
    state_dict = getattr(node.obj, "state_dict", None)
    if not callable(state_dict):
        raise invalid_state(
            node,
            f"a {type(node.obj).__name__} has no state_dict, which the format {format} needs; "
            "use the format cloudpickle or value",
        )
    return node.call(state_dict)


def _load_state_dict(node: Node, weights: Any) -> None:
    load = getattr(node.obj, "load_state_dict", None)
    if not callable(load):
        raise invalid_state(
            node,
            f"the state holds weights, and a {type(node.obj).__name__} has no load_state_dict; "
            "give it the state of a node of its kind",
        )
    try:
        load(weights)
    except Exception as error:  # torch has copied what fits before it complains
        raise invalid_state(node, f"the state does not fit: {error}") from None


def read_weights(node: Node, data: bytes) -> Any:
    """Weights for a node, from bytes in torch's format.

    Raises:
        ProtocolError: ``invalid_state``: the bytes are not, or there is no torch here.
    """
    _imported(node, "torch", "torch")
    try:
        return load_weights(data)
    except ValueError as error:
        raise invalid_state(node, str(error)) from None


def _imported(node: Node, module: str, format: StateFormat) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise invalid_state(
            node, f"the format {format} needs soma-core[torch] in the worker ({error})"
        ) from None


def _save_safetensors(node: Node, weights: Any) -> bytes:
    module = _imported(node, "safetensors.torch", "safetensors")
    try:
        data: bytes = module.save({k: value.contiguous().clone() for k, value in weights.items()})
    except Exception as error:
        raise invalid_state(node, f"its state_dict is more than tensors by name: {error}") from None
    return data


def _load_safetensors(node: Node, data: bytes) -> Any:
    module = _imported(node, "safetensors.torch", "safetensors")
    try:
        return module.load(bytes(data))
    except Exception as error:
        raise invalid_state(node, f"the bytes are not in the safetensors format: {error}") from None


def _pickled(node: Node, pickles: Pickles, content: Any) -> bytes:
    """The object, or its state_dict, as a pickle; what ``__getstate__`` raises is its failure."""
    try:
        data: bytes = node.call(pickles.dump, content)
    except ProtocolError as error:
        if error.code is ErrorCode.PICKLE_REFUSED:
            raise
        error = _of_the_filter(node.obj, pickles, error)
        raise ProtocolError(
            ErrorCode.FILTER_FAILED,
            f"node {node.node_id!r}: its state cannot be sent: {error}",
            node_id=node.node_id,
            remote_type=error.remote_type,
        ) from error.__cause__
    return data


def _without_privates(obj: Any) -> Any:
    """A filter with its fields alone: what it holds beside is of this process, such as a lock.

    Whoever reads it makes that anew. Parameters that it trains are no such thing.
    """
    if not isinstance(obj, Filter) or callable(getattr(obj, "state_dict", None)):
        return obj
    return _Fields(type(obj), _given(obj), _fields(obj))


def _of_the_filter(obj: Any, pickles: Pickles, error: ProtocolError) -> ProtocolError:
    """The error that says where in a filter's fields, or in its class, the fault is."""
    if not isinstance(obj, Filter):
        return error
    bare = type(obj).__new__(type(obj))
    BaseModel.__setstate__(bare, BaseModel.__getstate__(obj) | {"__pydantic_private__": None})
    try:
        pickles.dump(bare)
    except ProtocolError as found:
        return found
    return error


class _Fields:
    """Pickled in the place of a filter."""

    def __init__(self, kind: type[Filter], given: set[str], fields: dict[str, Any]) -> None:
        self._make = partial(kind.model_construct, given, **fields)

    def __reduce__(self) -> Any:
        return self._make, ()


def _unpickled(node: Node, data: bytes, pickles: Pickles) -> Any:
    try:
        return pickles.load(data)
    except ProtocolError as error:
        if error.code is ErrorCode.PICKLE_REFUSED:
            raise
        raise invalid_state(node, str(error)) from None


def _unpickled_filter(node: Node, data: bytes, pickles: Pickles) -> Any:
    obj = _unpickled(node, data, pickles)
    if not callable(getattr(obj, "forward", None)):
        raise invalid_state(node, f"the state holds a {type(obj).__name__}, which is not a filter")
    return obj


def take_over(node: Node, obj: Any) -> None:
    """Put an object in the place of a node's own.

    Of one of the same class only the attributes are taken: the code that runs stays the code that
    was loaded.

    Args:
        node: The node.
        obj: The object; nobody else uses it from then on.

    Raises:
        ProtocolError: ``invalid_state``: it is of a class of another name.
    """
    theirs, ours = type(obj).__qualname__, type(node.obj).__qualname__
    if theirs != ours:
        raise invalid_state(
            node, f"the state is a {theirs}, and the node a {ours}; load one instead"
        )
    if _name_of(obj) != _name_of(node.obj):
        _replace(node, obj)
    elif isinstance(node.obj, Filter):
        _configure(node, obj)
    elif not isinstance(node.obj, BaseModel) and _has_attributes(node.obj, obj):
        attributes = dict(vars(obj))  # it may be the node's own object: a member of an enumeration
        own = vars(node.obj)
        own.clear()
        own.update(attributes)
        with suppress(TypeError):  # what refers to the object that came, as to self, means this one
            obj.__class__ = type(node.obj)
            obj.__dict__ = own
    else:
        _replace(node, obj)


def _replace(node: Node, obj: Any) -> None:
    """Put an object in the place of a node's own, once it is ready.

    Raises:
        FilterFailed: Its ``on_load`` raised; the node is left as it was.
    """
    if callable(getattr(obj, "on_load", None)):
        node.call(obj.on_load)
    node.obj = obj


def _has_attributes(*objects: Any) -> bool:
    return all(hasattr(obj, "__dict__") for obj in objects)


def _configure(node: Node, made: Any) -> None:
    """Put a filter in the place of a node's own, unless that is configured alike: it is ready."""
    try:
        alike = fingerprint(_fields(made)) == fingerprint(_fields(node.obj))
    except TypeError:  # a field whose content cannot be hashed
        alike = False
    if alike and not callable(getattr(node.obj, "state_dict", None)):
        return
    _replace(node, made)


def _name_of(obj: Any) -> str:
    return f"{type(obj).__module__}.{type(obj).__qualname__}"


def _fields(obj: Any) -> dict[str, Any]:
    """What a filter was configured with; all attributes of another object."""
    if not isinstance(obj, BaseModel):
        return dict(vars(obj))
    declared, given = type(obj).model_fields, _given(obj)
    fields = fields_of(obj).items()
    return {name: value for name, value in fields if name in declared or name in given}


def _given(obj: BaseModel) -> set[str]:
    """The names of the fields that it was given; none of one that was made without ``__init__``."""
    return getattr(obj, "__pydantic_fields_set__", set())


def _spelled(obj: BaseModel, encoder: LineEncoder) -> dict[str, Any]:
    """The fields of a model; those of no type of the wire as pydantic writes them in JSON.

    Secrets are left out: a filter keeps those that it was loaded with.

    Raises:
        ValueError: What pydantic writes of a field is not what it reads.
    """
    fields, secrets = _fields(obj), _secrets(obj)
    spelled = {name: value for name, value in fields.items() if name not in secrets}
    for name, value in spelled.items():
        try:
            encoder.encode(value)
        except ProtocolError:
            spelled[name] = _written(obj, name)
    try:
        back = type(obj).model_validate(spelled | secrets, by_name=True)
    except ValidationError as error:
        raise ValueError(f"what pydantic writes of {describe(error)}") from None
    for name, value in spelled.items():
        if value is not fields[name] and not _alike(getattr(back, name), fields[name]):
            raise ValueError(f"what pydantic writes of {name} is not what it reads: {value!r:.80}")
    return spelled


def _written(obj: BaseModel, name: str) -> Any:
    written = obj.model_dump(mode="json", include={name}, by_alias=False)
    if name not in written:
        raise ValueError(f"pydantic leaves out {name} (exclude=True), which is no typed value")
    return written[name]


def _secrets(obj: BaseModel) -> dict[str, Any]:
    kinds = (Secret, SecretBytes, SecretStr)
    return {name: value for name, value in _fields(obj).items() if isinstance(value, kinds)}


def _alike(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) or fingerprint(one) == fingerprint(other)
    except (TypeError, ValueError):  # arrays among them, or what cannot be hashed
        return False


def _save_fields(node: Node, typed: Pickles) -> bytes:
    if not hasattr(node.obj, "__dict__"):
        raise invalid_state(
            node,
            f"a {type(node.obj).__name__} has slots in place of attributes; use the format "
            "cloudpickle",
        )
    encoder = LineEncoder(pickles=typed)
    try:
        try:
            encoded = encoder.encode(_fields(node.obj))
        except ProtocolError:
            if not isinstance(node.obj, BaseModel):
                raise
            encoded = encoder.encode(_spelled(node.obj, encoder))
        return write_json(encoded)
    except (ProtocolError, TypeError, ValueError) as error:
        raise invalid_state(node, f"it cannot be expressed as typed values: {error}") from None


def _load_fields(node: Node, data: bytes, typed: Pickles) -> None:
    try:
        fields = LineDecoder(pickles=typed).decode(read_json(bytes(data)))
    except ProtocolError as error:
        raise invalid_state(node, f"the bytes are not a typed value: {error}") from None
    if not isinstance(fields, dict):
        raise invalid_state(
            node, f"a typed state is an object of fields, got {type(fields).__name__}"
        )
    if isinstance(node.obj, BaseModel):
        _configure(node, _revalidated(node, fields))
        return
    methods = sorted(name for name in fields if callable(getattr(type(node.obj), name, None)))
    if methods:
        raise invalid_state(
            node, f"a state cannot replace methods of the filter: {', '.join(methods)}"
        )
    vars(node.obj).update(fields)


def _revalidated(node: Node, fields: dict[str, Any]) -> Any:
    try:
        return type(node.obj).model_validate(_secrets(node.obj) | fields, by_name=True)
    except ValidationError as error:
        raise invalid_state(node, f"the state does not fit: {describe(error)}") from None
