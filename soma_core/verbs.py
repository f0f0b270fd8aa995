"""For plugin authors: commands of their own."""

from soma_core.plugins.commands import CommandSpec
from soma_core.protocol.commands import Command
from soma_core.protocol.fields import Data

__all__ = ["Command", "CommandSpec", "Data"]
