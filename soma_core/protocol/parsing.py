"""From the JSON text of a message to a validated command, or to the reason why it is not one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, NamedTuple, Union

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.validation_errors import describe
from soma_core.protocol.commands import COMMANDS, Command, Forward
from soma_core.protocol.validated import validated
from soma_core.wire.codec import Decoder
from soma_core.wire.json_text import read_json
from soma_core.wire.pickles import Pickles
from soma_core.wire.recurring import Fields, RecurringHeaders

__all__ = ["CommandParser", "Envelope", "verb_of"]


@dataclass(frozen=True)
class Envelope:
    """What a reply repeats of its command, as far as it could be read."""

    id: str | int | None = None
    cmd: str | None = None
    node_id: str | None = None

    @classmethod
    def of(cls, parsed: Any) -> Envelope:
        """From whatever the message parsed to."""
        if not isinstance(parsed, dict):
            return cls()
        message_id = parsed.get("id")
        return cls(
            id=message_id if type(message_id) in (str, int) else None,
            cmd=_text_or_none(parsed.get("cmd")),
            node_id=_text_or_none(parsed.get("node_id")),
        )


_OURS = frozenset(COMMANDS)  # a command of a plugin may be validated by what changes meanwhile
_PLAIN_FORWARD = frozenset({"cmd", "node_id", "data", "id"})


class Form(NamedTuple):
    """What is the same in all commands of a header that recurs.

    Attributes:
        model: The class of the command.
        fields_set: The fields that came.
        is_plain_forward: Whether it is a FORWARD of one node, on what that learned last.
    """

    model: type[Command]
    fields_set: frozenset[str]
    is_plain_forward: bool

    @classmethod
    def of(cls, command: Command) -> Form:
        """That of a command."""
        fields_set = frozenset(command.model_fields_set)
        plain = type(command) is Forward and fields_set == _PLAIN_FORWARD
        return cls(type(command), fields_set, plain)


@cache
def _adapter(models: tuple[type[Command], ...]) -> TypeAdapter[Any]:
    """One for all engines of a process: it takes long to build, which the first message does."""
    union: Any = Union[models]  # noqa: UP007 - of a sequence known at run time
    tagged: Any = Annotated[union, Field(discriminator="cmd")]
    return TypeAdapter(tagged, config=ConfigDict(defer_build=True))


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


class CommandParser:
    """Validates messages against a set of commands.

    Args:
        models: The command models; each has a literal field ``cmd``.

    Attributes:
        recognise: What a message is whose like was validated before, and its fields; None if none
            was. Called with the header and the buffers.
    """

    def __init__(self, models: Sequence[type[Command]] = COMMANDS) -> None:
        self.models = {verb_of(model): model for model in models}
        self.adapter = _adapter(tuple(models))
        self._recurring: RecurringHeaders[Form] = RecurringHeaders()
        self.recognise = self._recurring.recognise

    def read(
        self,
        header: bytes,
        buffers: Sequence[Any],
        pickles: Pickles,
        recognised: tuple[Form, Fields] | None = None,
    ) -> Command:
        """The command in a message, validated unless it was recognised.

        Args:
            header: Its JSON text.
            buffers: Its buffers.
            pickles: Whether pickles in its data are read.
            recognised: What :meth:`recognise` said of it.

        Raises:
            ProtocolError: As :meth:`parse`.
        """
        if recognised is not None:
            form, fields = recognised
            return validated(form.model, fields, set(form.fields_set))
        command = self.parse(header, Decoder(buffers, pickles=pickles))
        if type(command) in _OURS and self._recurring.recurs(header):
            form = Form.of(command)
            self._recurring.learn(header, read_json(header), command.__dict__, form)
        return command

    def parse(self, text: bytes, decoder: Decoder | None) -> Command:
        """Validate one message.

        Args:
            text: The JSON text.
            decoder: Turns the data in it into Python objects; None leaves it in wire form.

        Raises:
            ProtocolError: ``malformed``, ``unknown_command`` or ``invalid_command``; the
                message names the field, what came and what would be accepted.
        """
        try:
            command: Command = self.adapter.validate_json(text, context=decoder)
        except ValidationError as error:
            if error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
                raise self._explain(error, read_json(text)) from None
            return self._parse_again(read_json(text), decoder)
        return command

    def _parse_again(self, parsed: Any, decoder: Decoder | None) -> Command:
        try:
            command: Command = self.adapter.validate_python(parsed, context=decoder)
        except ValidationError as error:
            raise self._explain(error, parsed) from None
        return command

    def _explain(self, error: ValidationError, parsed: Any) -> ProtocolError:
        if not isinstance(parsed, dict):
            return ProtocolError(
                ErrorCode.MALFORMED,
                f"a message is a JSON object with a cmd, got {type(parsed).__name__}",
            )
        verbs = ", ".join(self.models)
        if "cmd" not in parsed:
            return ProtocolError(
                ErrorCode.INVALID_COMMAND, f"cmd: this field is required; it is one of {verbs}"
            )
        model = self.models.get(parsed["cmd"]) if isinstance(parsed["cmd"], str) else None
        if model is None:
            return ProtocolError(
                ErrorCode.UNKNOWN_COMMAND,
                f"unknown command: {parsed['cmd']}; the commands are {verbs}",
            )
        fields = ", ".join(name for name in model.model_fields if name != "cmd")
        text = describe(error, skip=1)
        return ProtocolError(
            ErrorCode.INVALID_COMMAND, f"{parsed['cmd']}: {text} (its fields: {fields})"
        )


def verb_of(model: type[Command]) -> str:
    """The ``cmd`` of a command's model."""
    verb: str = model.model_fields["cmd"].annotation.__args__[0]  # type: ignore[union-attr]
    return verb
