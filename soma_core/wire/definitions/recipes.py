"""What cloudpickle does not pickle, or pickles in a way that cannot be read back."""

from __future__ import annotations

import functools
import inspect
import io
import operator
import pickle
import re
import sys
import typing
import weakref
from contextlib import suppress
from typing import Any, cast

import cloudpickle
from pydantic import ConfigDict
from typing_extensions import TypeAliasType

from soma_core.wire.definitions import structures, torch_objects
from soma_core.wire.definitions.registry import registry

with suppress(ImportError):  # a pydantic to come may keep them elsewhere
    from pydantic._internal._namespace_utils import NamespacesTuple, NsResolver
    from pydantic._internal._validate_call import ValidateCallWrapper


def of(obj: Any) -> tuple[Any, ...] | None:
    """How to pickle an object; None leaves it to cloudpickle."""
    recipe = _RECIPES.get(type(obj))
    if recipe is not None:
        made: tuple[Any, ...] | None = recipe(obj)
        return made
    if isinstance(obj, type):
        return _parametrized(obj) if is_compiled(obj) else structures.of(obj)
    return torch_objects.of(obj) if "torch" in sys.modules else None


def is_definition(obj: Any) -> bool:
    """Whether it is one of what a program defines, and the same object wherever it appears."""
    return isinstance(obj, DEFINITIONS)


DEFINITIONS = (
    functools._lru_cache_wrapper,
    typing.NewType,
    typing.ParamSpec,
    typing.TypeVar,
    typing.TypeVarTuple,
)


def _cached(function: functools._lru_cache_wrapper[Any]) -> tuple[Any, ...] | None:
    if is_importable(function):
        return None
    parameters = function.cache_parameters()
    return _cache, (function.__wrapped__, parameters["maxsize"], parameters["typed"])


def _cache(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize, typed)(function)


def is_importable(obj: Any) -> bool:
    """Whether the other side can be expected to find it by its name."""
    module = getattr(obj, "__module__", None)
    if module is None or module == "__main__":
        return False
    names = module.split(".")
    by_value = cloudpickle.list_registry_pickle_by_value()
    if any(".".join(names[:length]) in by_value for length in range(1, len(names) + 1)):
        return False
    found: Any = sys.modules.get(module)
    for name in name_of(obj).split("."):
        found = getattr(found, name, None)
    return found is obj


def _type_variable(variable: Any) -> tuple[Any, ...] | None:
    reduced: tuple[Any, ...] = cloudpickle.Pickler.dispatch_table[typing.TypeVar](variable)
    return None if reduced[0] is getattr else reduced


def _parameters(found: typing.ParamSpec) -> tuple[Any, ...] | None:
    if is_importable(found):
        return None
    kind = found.__covariant__, found.__contravariant__
    return _made_parameters, (found.__name__, found.__bound__, *kind)


def _made_parameters(name: str, bound: Any, covariant: bool, contravariant: bool) -> Any:
    return typing.ParamSpec(name, bound=bound, covariant=covariant, contravariant=contravariant)


def _new_type(found: Any) -> tuple[Any, ...] | None:
    if is_importable(found):
        return None
    return _named_type, (found.__qualname__, found.__module__, found.__supertype__)


def _named_type(name: str, module: str, base: Any) -> Any:
    new_type: Any = typing.NewType
    made = new_type(name, base)
    made.__module__ = module
    return made


def _alias(found: Any) -> tuple[Any, ...] | None:
    """Of ``type X = ...`` and of ``TypeAliasType``."""
    if is_importable(found):
        return None
    place = type(found), found.__name__, found.__module__
    parameters = found.__type_params__
    if type(found) is not _WITH_STATEMENT or not all(map(_is_plain, parameters)):
        return _made_alias, (*place, found.__value__, parameters)
    names = tuple(parameter.__name__ for parameter in parameters)
    content = found.__value__, parameters
    return _begun_alias, (*place, names), content, None, None, _complete_alias


def _is_plain(parameter: Any) -> bool:
    """Whether a type parameter is nothing but a name."""
    if not isinstance(parameter, typing.TypeVar) or getattr(parameter, "has_default", bool)():
        return False
    return parameter.__bound__ is None and not parameter.__constraints__


def _made_alias(kind: type, name: str, module: str, value: Any, parameters: Any) -> Any:
    own = _own_alias(kind, name, module)
    if own is not None:
        return own
    scope = {"__name__": module, "kind": kind, "value": value, "parameters": parameters}
    make = f"kind({name!r}, value, type_params=parameters)"
    return eval(make, scope)  # noqa: S307 - its module is where it is made


def _begun_alias(kind: type, name: str, module: str, parameters: tuple[str, ...]) -> Any:
    """One whose value comes later: it may be made of the alias itself."""
    value: list[Any] = []
    alias = _own_alias(kind, name, module)
    if alias is None:
        scope: dict[str, Any] = {"__name__": module, "value": value}
        listed = f"[{', '.join(parameters)}]" if parameters else ""
        exec(f"type {name}{listed} = value[0]", scope)  # noqa: S102 - an older Python cannot parse it
        alias = scope[name]
    _begun[id(alias)] = value
    return alias


def _complete_alias(alias: Any, content: tuple[Any, tuple[Any, ...]]) -> None:
    """Give it its value, in which its own parameters stand for those that came."""
    value, parameters = content
    own = dict(zip(parameters, alias.__type_params__, strict=True))
    used = getattr(value, "__parameters__", ())
    if used:
        value = value[tuple(own.get(parameter, parameter) for parameter in used)]
    elif isinstance(value, typing.TypeVar):
        value = own.get(value, value)
    _begun.pop(id(alias)).append(value)


_WITH_STATEMENT = getattr(typing, "TypeAliasType", None)
ALIASES = (TypeAliasType,) if _WITH_STATEMENT is None else (TypeAliasType, _WITH_STATEMENT)
_begun: dict[int, list[Any]] = {}


def _own_alias(kind: type, name: str, module: str) -> Any:
    """The alias of this process, if what is read here was sent from here."""
    own = None if registry.in_worker else getattr(sys.modules.get(module), name, None)
    return own if type(own) is kind else None


def _forward_reference(found: typing.ForwardRef) -> tuple[Any, ...]:
    """Without what it was found to stand for here, which may be what it is a part of."""
    kind = found.__forward_is_argument__, found.__forward_is_class__
    return _made_reference, (found.__forward_arg__, found.__forward_module__, *kind)


def _made_reference(text: str, module: Any, is_argument: bool, is_class: bool) -> Any:
    return typing.ForwardRef(text, module=module, is_argument=is_argument, is_class=is_class)


def _cached_property(found: functools.cached_property[Any]) -> tuple[Any, ...]:
    return _property, (found.func, found.attrname)


def _property(function: Any, name: str | None) -> Any:
    made = functools.cached_property(function)
    made.attrname = name
    return made


def _weakly(obj: Any) -> weakref.ref[Any]:
    """A reference; what nothing else in the message holds is gone there, as it would be here."""
    return weakref.ref(_Gone() if obj is None else obj)


class _Gone:
    """What a reference refers to that refers to nothing any more."""


def _open_file(file: io.TextIOWrapper) -> None:
    """Of any but Python's own streams cloudpickle would send a copy of the content."""
    if file not in (sys.stdin, sys.stdout, sys.stderr):
        raise pickle.PicklingError(f"cannot pickle the open file {file.name!r}")


def _validated(call: ValidateCallWrapper) -> tuple[Any, ...]:
    """Of a function under ``validate_call``: it holds all globals of its program.

    Of the variables around it go those that its annotations may name.
    """
    annotations = getattr(call.schema_type, "__annotations__", {}).values()
    words = {word for text in annotations for word in re.findall(r"\w+", str(text))}
    around = call.ns_resolver.types_namespace.locals
    names = {name: value for name, value in dict(around).items() if name in words}
    config = dict(call.config_wrapper.config_dict)
    return _validated_call, (call.function, config, call.validate_return, names)


def _validated_call(
    function: Any, config: dict[str, Any], validate_return: bool, names: dict[str, Any]
) -> ValidateCallWrapper:
    """It is compiled by its first call: what its annotations name may come after it."""
    call = ValidateCallWrapper(
        function, cast("ConfigDict", {**config, "defer_build": True}), validate_return, None
    )
    scope = getattr(inspect.unwrap(call.schema_type), "__globals__", {})
    call.ns_resolver = NsResolver(namespaces_tuple=NamespacesTuple(scope, names))
    return call


_RECIPES: dict[type, Any] = {
    **dict.fromkeys(ALIASES, _alias),
    io.TextIOWrapper: _open_file,
    functools._lru_cache_wrapper: _cached,
    functools.cached_property: _cached_property,
    typing.ForwardRef: _forward_reference,
    typing.NewType: _new_type,
    typing.ParamSpec: _parameters,
    typing.TypeVar: _type_variable,
    typing.TypeVarTuple: lambda found: (
        None if is_importable(found) else (typing.TypeVarTuple, (found.__name__,))
    ),
    weakref.WeakKeyDictionary: lambda weak: (weakref.WeakKeyDictionary, (dict(weak),)),
    weakref.WeakValueDictionary: lambda weak: (weakref.WeakValueDictionary, (dict(weak),)),
    weakref.ref: lambda weak: (_weakly, (weak(),)),
}
if "ValidateCallWrapper" in globals():
    _RECIPES[ValidateCallWrapper] = _validated


# pydantic compiles what validates and writes a model. What it compiled for a model that contains
# itself cannot be read back, and is larger than what it was made of: it is compiled anew.

_COMPILED = (
    "__pydantic_core_schema__",
    "__pydantic_serializer__",
    "__pydantic_validator__",
)

# The variables of the function that defines the class, in which pydantic looks up annotations.
# Once all are found nothing needs them, and they may be anything: a lock, this host's worker.
_LOCALS = "__pydantic_parent_namespace__"


def _parametrized(kind: type) -> tuple[Any, ...] | None:
    """Of a generic model and its arguments pydantic makes one class, wherever they are joined."""
    generic = getattr(kind, "__pydantic_generic_metadata__", None)
    if not generic or generic["origin"] is None:
        return None
    return operator.getitem, (generic["origin"], generic["args"])


def is_compiled(obj: Any) -> bool:
    """Whether pydantic compiles this class."""
    return isinstance(obj, type) and "__pydantic_decorators__" in vars(obj)


def name_of(obj: Any) -> str:
    """The name of a definition in its module."""
    return str(getattr(obj, "__qualname__", None) or getattr(obj, "__name__", ""))


def made_with(kind: type, namespace: dict[str, Any]) -> dict[str, Any]:
    """What a class is made with: where its source is, and slots, which are none if added later."""
    namespace = {**namespace, "__qualname__": kind.__qualname__}
    structure = structures.fields_of(kind)
    if structure is not None:
        return {**namespace, **structure.namespace}
    if "__slots__" not in vars(kind) or is_compiled(kind) or issubclass(kind, tuple):
        return namespace
    return {**namespace, "__slots__": vars(kind)["__slots__"]}


def without_derived(obj: Any, state: Any) -> Any:
    """The state of a class, less what is made anew where it is read."""
    if not isinstance(obj, type):
        return state
    derived = {"__slotnames__"}.union(_COMPILED if is_compiled(obj) else ())
    if getattr(obj, "__pydantic_complete__", False):
        derived.add(_LOCALS)
    structure = structures.fields_of(obj)
    if structure is not None:
        derived.update(structure.final)
    attributes, *rest = state
    kept = {
        name: value
        for name, value in attributes.items()
        if name not in derived and not structures.is_derived(value)
    }
    return (kept, *rest)


def recompile(kind: Any, namespace: dict[str, Any]) -> None:
    """Compile a class of pydantic, once all that it refers to is there."""
    from pydantic import BaseModel
    from pydantic.dataclasses import rebuild_dataclass

    if issubclass(kind, BaseModel):
        kind.model_rebuild(force=True, raise_errors=False, _types_namespace=namespace)
    else:
        rebuild_dataclass(kind, force=True, raise_errors=False, _types_namespace=namespace)
