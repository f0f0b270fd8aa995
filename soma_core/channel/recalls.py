"""Recalls: how an end of a channel takes back messages that the other end has not taken yet.

Both ends count the messages, and share four numbers. The receiver writes which one it is about to
take before it looks for a recall; the sender writes a recall before it looks which one that is. So
at least one of them sees the other, and if both do, the receiver waits for what the sender decides.
"""

from __future__ import annotations

import os

NEXT, PROPOSED, DECIDED, UPTO = range(4)
"""The last message that may have been taken, which the receiver writes; and of a recall its first
message as proposed, that as decided (0 until then), and its last one."""

SIZE = 4 * 8
NEVER_AGAIN = (1 << 64) - 1
"""Stands for NEXT where the receiver has lost count."""


def recall(numbers: memoryview, sent: int) -> int:
    """Take back what the other end has not taken; returns how many of the last messages that are.

    Args:
        numbers: What both ends share.
        sent: How many messages were sent.
    """
    following = numbers[NEXT]
    if following <= numbers[UPTO] or following >= sent:  # it does not count, or has not come so far
        return 0
    last = sent  # where Ctrl-C comes in between
    try:
        numbers[DECIDED] = 0
        numbers[PROPOSED] = following + 1
        numbers[UPTO] = sent
        _fence()
        last = max(following, numbers[NEXT])
    finally:
        numbers[DECIDED] = last + 1
    return max(0, sent - last)


def is_recalled(numbers: memoryview, number: int) -> bool | None:
    """Whether the other end has taken a message back, which this end is about to take; None where
    it is about to decide that: ask again."""
    if numbers[NEXT] < number:
        numbers[NEXT] = number
        _fence()
    if not numbers[PROPOSED] <= number <= numbers[UPTO]:
        return False
    decided = numbers[DECIDED]
    return decided <= number if decided else None


def _fence() -> None:
    """What was written before is seen before what is read after: the kernel sees to that."""
    os.sched_yield()
