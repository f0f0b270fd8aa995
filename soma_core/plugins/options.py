"""Options of plugins: what a plugin is made with, and how they reach the process of a worker."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from inspect import isclass, isfunction, signature
from typing import Annotated, Any, get_type_hints

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from soma_core.errors import PluginLoadFailed
from soma_core.models.validation_errors import describe

__all__ = ["PluginOptions", "check_options", "made_with", "options_from", "plugin_variables"]

_VARIABLE = "SOMA_PLUGIN_OPTIONS"


def _check_travels(options: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    try:
        to_json(options)
    except PydanticSerializationError as error:
        raise ValueError(f"options of plugins are written as JSON: {error}") from None
    return options


PluginOptions = Annotated[Mapping[str, Mapping[str, Any]], AfterValidator(_check_travels)]
"""The option ``plugins`` of a transport that starts its workers: options by plugin."""


def plugin_variables(options: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The environment variable by which the plugins of a new process get their options.

    Args:
        options: By plugin; those of other plugins are handed on as this process has them.
    """
    if not options:
        return {}
    return {_VARIABLE: to_json({**options_from(os.environ), **options}).decode()}


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
        named: A module, or any object with hooks; or a class or function that takes options, as
            the annotation of its one parameter says, a pydantic model.
        given: The options.

    Raises:
        ValueError: They are not valid, or it takes none; the message names them.
        PluginLoadFailed: It cannot be made.
    """
    model = _model_of(named)
    if model is None:
        if given:
            raise ValueError(f"the plugin {name!r} takes no options; it got {', '.join(given)}")
        return named
    try:
        options = model.model_validate(dict(given))
    except ValidationError as error:
        known = ", ".join(model.model_fields) or "none"
        raise ValueError(f"the plugin {name!r}: {describe(error)} (its options: {known})") from None
    try:
        return named(options)
    except ValueError as error:
        raise ValueError(f"the plugin {name!r}: {error}") from None
    except Exception as error:
        raise PluginLoadFailed(
            f"the plugin {name!r} raised as it was made: {type(error).__name__}: {error}"
        ) from error


def _model_of(named: Any) -> type[BaseModel] | None:
    """The model of the options that a class or function takes; None if it takes none."""
    if not (isclass(named) or isfunction(named)):
        return None
    parameters = [*signature(named).parameters]
    if len(parameters) != 1:
        return None
    hints = get_type_hints(named.__init__ if isclass(named) else named)
    model = hints.get(parameters[0])
    return model if isclass(model) and issubclass(model, BaseModel) else None
