"""For authors of tools and of tests: commands checked, recordings run again, what is installed."""

from soma_core.client.connect import transport_maker
from soma_core.client.usage import process_usage
from soma_core.plugins.catalog import installed_filters, installed_transports
from soma_core.plugins.checking import check_command, check_reply
from soma_core.plugins.manager import PluginSet, installed_plugins
from soma_core.replay.replaying import Outcome, Verdict, replay

__all__ = [
    "Outcome",
    "PluginSet",
    "Verdict",
    "check_command",
    "check_reply",
    "installed_filters",
    "installed_plugins",
    "installed_transports",
    "process_usage",
    "replay",
    "transport_maker",
]
