"""From a message to a validated command, or to the reason why it is not one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from soma_core.errors import ErrorCode, ProtocolError
from soma_core.models.brief import brief
from soma_core.models.validation_errors import describe
from soma_core.protocol.commands import COMMANDS, Command
from soma_core.protocol.dialects import read_fields
from soma_core.wire.message import Dialect, Message


@dataclass(frozen=True)
class Envelope:
    """What a reply repeats of its command, as far as it could be read."""

    id: str | int | None = None
    cmd: str | None = None
    node_id: str | None = None

    @classmethod
    def of(cls, message: Message) -> Envelope:
        """From a message, whatever it holds."""
        try:
            fields = read_fields(message)
        except (ProtocolError, MemoryError):
            return cls()
        return cls.from_fields(fields)

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Envelope:
        """From the fields of a message, whatever they hold."""
        message_id = fields.get("id")
        return cls(
            id=message_id if type(message_id) in (str, int) else None,
            cmd=_text_or_none(fields.get("cmd")),
            node_id=_text_or_none(fields.get("node_id")),
        )


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


class CommandParser:
    """Validates messages against a set of commands.

    Args:
        models: The command models; each has a literal field ``cmd``.

    Attributes:
        models: They, by that name.
    """

    def __init__(self, models: Sequence[type[Command]] = COMMANDS) -> None:
        self.models = {name_of_command(model): model for model in models}

    def check(self, text: bytes) -> Command:
        """Validate a line without decoding what it carries.

        Raises:
            ProtocolError: ``malformed``; or as :meth:`validate`.
        """
        return self.validate(read_fields(Message(text, (), Dialect.LINE)))

    def validate(self, fields: dict[str, Any]) -> Command:
        """The command of some fields, its user data as they came.

        Raises:
            ProtocolError: ``unknown_command`` or ``invalid_command``; the text names the field,
                what came and what would be accepted.
        """
        try:
            model = self.models[fields["cmd"]]
        except (KeyError, TypeError):
            raise self._no_command(fields) from None
        try:
            return model.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
        except ValidationError as error:
            known = ", ".join(name for name in model.model_fields if name != "cmd")
            raise ProtocolError(
                ErrorCode.INVALID_COMMAND,
                f"{fields['cmd']}: {describe(error)} (its fields: {known})",
                where=_place(error),
            ) from None

    def _no_command(self, fields: dict[str, Any]) -> ProtocolError:
        names = ", ".join(self.models)
        if "cmd" not in fields:
            return ProtocolError(
                ErrorCode.INVALID_COMMAND, f"cmd: this field is required; it is one of {names}"
            )
        asked = fields["cmd"]
        shown = asked[:100] if isinstance(asked, str) else brief(asked)
        return ProtocolError(
            ErrorCode.UNKNOWN_COMMAND,
            f"unknown command: {shown}; the commands are {names}",
            where=("cmd",),
        )


def _place(error: ValidationError) -> tuple[str | int, ...]:
    """Where the first mistake is, of those that are there to be seen."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [problem for problem in found if problem["type"] != "missing"] or found
    return shown[0]["loc"]


def name_of_command(model: type[Command]) -> str:
    """The ``cmd`` of a command's model."""
    cmd: str = get_args(model.model_fields["cmd"].annotation)[0]
    return cmd
