"""Options of plugins: what a plugin is made with, and how they reach the process of a worker.

They are JSON for every side, so that a host and a worker read the same of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from inspect import Parameter, isclass, isroutine, signature
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from soma_core.errors import PluginLoadFailed
from soma_core.models.validation_errors import describe

_VARIABLE = "SOMA_PLUGIN_OPTIONS"


def _check_travels(options: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    _written(options)
    return options


def _written(options: Mapping[str, Any]) -> bytes:
    """Options as JSON.

    Raises:
        ValueError: JSON has nothing for one of them.
    """
    try:
        return to_json(_revealed(options))
    except (PydanticSerializationError, RecursionError) as error:
        raise ValueError(f"options of plugins are written as JSON: {error}") from None


def _revealed(value: Any) -> Any:
    """The same with its secrets, in place of which JSON would have asterisks."""
    if hasattr(value, "get_secret_value"):
        return _revealed(value.get_secret_value())
    if isinstance(value, BaseModel):
        return _revealed(value.model_dump(by_alias=True))
    if isinstance(value, Mapping):
        return {name: _revealed(one) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_revealed(one) for one in value]
    return value


PluginOptions = Annotated[Mapping[str, Mapping[str, Any]], AfterValidator(_check_travels)]
"""The option ``plugins`` of a transport that starts its workers: options by plugin."""


def plugin_variables(
    options: Mapping[str, Mapping[str, Any]], *, inherits: bool = True
) -> dict[str, str]:
    """The environment variable by which the plugins of a new process get their options.

    Args:
        options: By plugin.
        inherits: Whether the process gets this one's environment: then other plugins keep the
            options that they have there.
    """
    if not options:
        return {}
    others = options_from(os.environ) if inherits else {}
    return {_VARIABLE: _written({**others, **options}).decode()}


def options_from(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The options that an environment gives to plugins, by plugin.

    Raises:
        ValueError: They are not written as they should be.
    """
    text = environment.get(_VARIABLE)
    if not text:
        return {}
    try:
        options = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{_VARIABLE} is JSON: {error}; got {text!r:.200}") from None
    check_options(_VARIABLE, options)
    return dict(options)


def check_options(name: str, options: Any) -> None:
    """Make sure that options are given by plugin.

    Raises:
        ValueError: They are not.
    """
    by_name = isinstance(options, Mapping) and all(isinstance(key, str) for key in options)
    if not by_name or not all(isinstance(one, Mapping) for one in options.values()):
        raise ValueError(
            f'{name} are options by plugin, such as {{"cache": {{"size": "4G"}}}}; '
            f"got {options!r:.200}"
        )


def made_with(name: str, named: Any, given: Mapping[str, Any]) -> Any:
    """The plugin that an entry point names: the very object, or what that makes of options.

    Args:
        name: Of the plugin, for messages.
        named: A module, or any object with hooks; or a class of those, or a function that returns
            one. Both may take options, a pydantic model, as the annotation says.
        given: The options.

    Raises:
        ValueError: They are not valid, or it takes none; the message names them.
        PluginLoadFailed: It cannot be made.
    """
    try:
        model = options_model(named)
        if model is not None:
            made = named(_validated(model, given))
        elif given:
            raise ValueError(f"it takes no options, and got {', '.join(given)}")
        else:
            made = named() if _makes_one(named) else named
        if made is None:
            raise TypeError("None was returned in its place")
        return made
    except ValueError as error:
        raise ValueError(f"the plugin {name!r}: {error}") from None
    except Exception as error:
        raise PluginLoadFailed(
            f"the plugin {name!r} cannot be made: {type(error).__name__}: {error}"
        ) from error


def options_model(named: Any) -> type[BaseModel] | None:
    """The model of the options that a class or function takes; None if it takes none.

    Raises:
        TypeError: It needs something else.
        Exception: An annotation cannot be read.
    """
    parameters = [*signature(named).parameters.values()] if _makes_one(named) else []
    if not parameters:
        return None
    hints = get_type_hints(named.__init__ if isclass(named) else named)
    model = hints.get(parameters[0].name)
    takes_options = isclass(model) and issubclass(model, BaseModel)
    needed = [one.name for one in parameters[takes_options:] if _is_needed(one)]
    if needed:
        raise TypeError(
            f"{named.__name__} takes {', '.join(needed)}; all that it is given are its options, "
            "as its first argument, if the annotation of that is a pydantic model"
        )
    return model if takes_options else None


def option_names(model: type[BaseModel]) -> list[str]:
    """The options of a plugin, as they are given."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _makes_one(named: Any) -> bool:
    return isclass(named) or isroutine(named)


def _is_needed(parameter: Parameter) -> bool:
    several = parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    return parameter.default is Parameter.empty and not several


def _validated(model: type[BaseModel], given: Mapping[str, Any]) -> BaseModel:
    """Options as an object of their model.

    Raises:
        ValueError: They are not valid; the message names those that there are.
    """
    try:
        return model.model_validate_json(_written(given))
    except ValidationError as error:
        known = ", ".join(option_names(model)) or "none"
        raise ValueError(f"{describe(error)} (its options: {known})") from None
