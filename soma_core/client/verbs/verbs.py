"""Verbs: all that a worker can be asked, as steps that whoever drives them sends."""

from __future__ import annotations

from soma_core.client.verbs.running import RunningVerbs
from soma_core.client.verbs.states import StateVerbs
from soma_core.client.verbs.training import TrainingVerbs


class Verbs(RunningVerbs, TrainingVerbs, StateVerbs):
    """What each method of a worker sends, and what it makes of the replies."""
