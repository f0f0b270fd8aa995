"""The long run, of as many inputs as are asked for."""

from __future__ import annotations

import argparse
import collections
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings

from .driving import Harm, Target
from .inputs import INPUTS

_AT_ONCE = 2_000


def main() -> int:
    """Run inputs of some kinds in turn; the exit status is 1 if one did harm."""
    parser = argparse.ArgumentParser("python -m tests.security.hostile_data", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs of all kinds together")
    parser.add_argument(
        "--kind", choices=INPUTS, action="append", help="may be given several times"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs = [Run(kind, options.seed) for kind in options.kind or INPUTS]
    left = options.count
    while left > 0 and not all(run.harmed for run in runs):
        for run in runs:
            run.go_on(min(_AT_ONCE, left))
            left -= _AT_ONCE
    return int(any(run.harmed for run in runs))


class Run:
    """The inputs of one kind, some thousands at a time.

    Attributes:
        harmed: Whether one did harm; then there are no more.
    """

    def __init__(self, kind: str, first_seed: int) -> None:
        self._kind, self._seed = kind, first_seed
        self._outcomes = collections.Counter[str]()
        self._seconds = 0.0
        self.harmed = False

    def go_on(self, count: int) -> None:
        """Give so many more, and tell what they came to."""
        if self.harmed or count <= 0:
            return
        begun = time.monotonic()
        try:
            self._give(count)
        except Harm as harm:
            self.harmed = True
            notes = "\n".join(getattr(harm, "__notes__", ()))
            self._tell(f"seed {self._seed}: {harm}\n{notes}")
        self._seed += 1
        self._seconds += time.monotonic() - begun
        total, outcomes = self._outcomes.total(), dict(self._outcomes)
        self._tell(f"{total:,} inputs in {self._seconds:.0f} s: {outcomes}")

    def _give(self, count: int) -> None:
        target = Target(self._kind)

        @seed(self._seed)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(INPUTS[self._kind])
        def give(data: bytes) -> None:
            self._outcomes[target.read(data) or "taken"] += 1

        try:
            give()
        finally:
            target.close()

    def _tell(self, text: str) -> None:
        sys.stdout.write(f"{self._kind}: {text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
