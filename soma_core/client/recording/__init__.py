"""The flight recorder: what went over a channel, as lines of JSON that can be run again."""

from soma_core.client.recording.recorder import Recorder, Recording

__all__ = ["Recorder", "Recording"]
