"""For authors of tools: commands checked, recordings run again, transports by name."""

from soma_core.client.usage import process_usage
from soma_core.plugins.catalog import installed_transports
from soma_core.plugins.checking import check_command, check_reply
from soma_core.replay.replaying import Outcome, Verdict, replay

__all__ = [
    "Outcome",
    "Verdict",
    "check_command",
    "check_reply",
    "installed_transports",
    "process_usage",
    "replay",
]
