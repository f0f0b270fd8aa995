"""Messages checked without running them: for ``soma validate``, and for editors of commands."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.validation_errors import describe
from soma_core.models.values import TensorData
from soma_core.plugins.manager import installed_plugins
from soma_core.protocol.dialects import BYTES, decode_field
from soma_core.protocol.fields import carried_fields
from soma_core.protocol.parsing import CommandParser
from soma_core.protocol.replies import REPLIES, ErrorReply, Event
from soma_core.wire.json_text import read_json
from soma_core.wire.line_codec import LineDecoder
from soma_core.wire.pickles import Pickles


def check_command(text: bytes) -> None:
    """Check one command, without running it or unpickling anything.

    Args:
        text: The command as JSON.

    Raises:
        ProtocolError: It is not one; the message names the field and the reason, and ``where`` is
            the place of the field.
    """
    _check_user_data(_parser().check(text))


@cache
def _parser() -> CommandParser:
    return CommandParser(installed_plugins().known_commands())


def check_reply(text: bytes) -> None:
    """Check one reply or event. A reply does not name its command: any that fits will do.

    Args:
        text: The message as JSON.

    Raises:
        ProtocolError: It is none; the message names the field and the reason.
    """
    parsed = read_json(text)
    if not isinstance(parsed, dict):
        raise _invalid(f"a reply is a JSON object, got {type(parsed).__name__}")
    if "ok" not in parsed and "event" not in parsed:
        raise _invalid("ok: this field is required (or event, in what precedes a reply)")
    if not isinstance(parsed.get("ok", True), bool):  # for the models 1 is as good as true
        raise _invalid(f"ok: true or false is expected, got {parsed['ok']!r}")
    _check_user_data(_fitting_reply(text, parsed))


def _fitting_reply(text: bytes, parsed: dict[str, Any]) -> BaseModel:
    failures: list[tuple[type[BaseModel], ValidationError]] = []
    for model in _candidates(parsed):
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            failures.append((model, error))
    model, closest = min(failures, key=lambda failure: failure[1].error_count())
    fields = ", ".join(model.model_fields)
    raise _invalid(f"{model.__name__}: {describe(closest)} (its fields: {fields})")


def _candidates(parsed: dict[str, Any]) -> tuple[type[BaseModel], ...]:
    if "event" in parsed:
        return (Event,)
    return (ErrorReply,) if parsed["ok"] is False else REPLIES


def _check_user_data(message: BaseModel) -> None:
    """Read the user's data in a message that is valid otherwise, and forget it."""
    for name, kind in carried_fields(type(message)):
        if name not in message.model_fields_set or kind in BYTES:
            continue
        try:
            decode_field(_checker(), kind, getattr(message, name))
        except ProtocolError as error:
            what = getattr(message, "cmd", type(message).__name__)
            raise _invalid(f"{what}: {name}: {error}", name) from None


class _UnreadPickles(Pickles):
    """Accepts any pickle, and reads none."""

    def load(self, data: Any, buffers: Iterable[Any] = ()) -> Any:
        return None


class _Checker(LineDecoder):
    """Reads user data without unpickling, and without torch."""

    def _laid_out(self, tensor: TensorData) -> Any:
        if tensor.container != "torch":
            return super()._laid_out(tensor)
        if tensor.values is None:
            return self.binary(tensor.b64)
        return super()._laid_out(tensor.model_copy(update={"container": None, "dtype": None}))


@cache
def _checker() -> _Checker:
    return _Checker(pickles=_UnreadPickles(codecs=installed_plugins().known_codecs()))


def _invalid(message: str, *where: str) -> ProtocolError:
    return ProtocolError(ErrorCode.INVALID_COMMAND, message, where=where)
