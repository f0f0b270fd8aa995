"""The long run, of as many inputs as are asked for."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from .driving import Harm, Target
from .inputs import INPUTS, input_of

_AT_ONCE = 250  # inputs that are given together
_IN_TURN = 10_000  # inputs of one kind, before it is the next one's turn
_MOST = 5  # inputs of one kind that did harm, after which there are no more


def main() -> int:
    """Run inputs of some kinds in turn; the exit status is 1 if one did harm."""
    parser = argparse.ArgumentParser("python -m tests.security.hostile_data", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs of all kinds together")
    parser.add_argument(
        "--kind", choices=INPUTS, action="append", help="may be given several times"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first of each kind")
    parser.add_argument("--keep", type=Path, default=Path("."), help="where harmful inputs go")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    kinds = options.kind or list(INPUTS)
    runs = [Run(kind, options.seed, options.first, options.keep) for kind in kinds]
    left = [
        options.count // len(kinds) + (n < options.count % len(kinds)) for n in range(len(runs))
    ]
    while any(left):
        for number, run in enumerate(runs):
            run.go_on(min(_IN_TURN, left[number]))
            left[number] = max(0, left[number] - _IN_TURN)
    return int(any(run.harmed for run in runs))


class Run:
    """The inputs of one kind, some thousands at a time.

    Attributes:
        harmed: How many did harm.
    """

    def __init__(self, kind: str, seed: int, first: int, keep: Path) -> None:
        self._kind, self._seed, self._next, self._keep = kind, seed, first, keep
        self._outcomes = Counter[str]()
        self._seconds = 0.0
        self.harmed = 0

    def go_on(self, count: int) -> None:
        """Give so many more, and tell what they came to."""
        if self.harmed >= _MOST or count <= 0:
            return
        begun = time.monotonic()
        for harm, number in self._harms(count):
            self.harmed += 1
            path = self._keep / f"{self._kind}-{self._seed}-{number}"
            path.write_bytes(harm.data)
            anew = again(harm, self._kind)
            self._tell(f"input {number} of seed {self._seed}, kept in {path}: {harm}; {anew}")
            if self.harmed >= _MOST:
                break
        self._seconds += time.monotonic() - begun
        outcomes = dict(self._outcomes.most_common())
        self._tell(f"{self._outcomes.total():,} inputs in {self._seconds:.0f} s: {outcomes}")

    def _harms(self, count: int) -> Iterator[tuple[Harm, int]]:
        """Give them; what is drawn next is drawn while the last ones are read."""
        end = self._next + count
        with closing(Target(self._kind)) as target:
            batch = self._draw(end)
            while batch:
                target.give(batch)
                after = self._next + len(batch)
                following = self._draw(end, after)
                try:
                    self._outcomes += target.answer()
                except Harm as harm:
                    number = self._next + len(harm.before)
                    self._outcomes["did harm"] += 1
                    self._next = number + 1
                    yield harm, number
                    batch = self._draw(end)
                else:
                    self._next, batch = after, following

    def _draw(self, end: int, first: int | None = None) -> list[bytes]:
        first = self._next if first is None else first
        numbers = range(first, min(first + _AT_ONCE, end))
        return [input_of(self._kind, self._seed, number) for number in numbers]

    def _tell(self, text: str) -> None:
        sys.stdout.write(f"{self._kind}: {text}\n")
        sys.stdout.flush()


def again(harm: Harm, kind: str) -> str:
    """How many of the inputs before it one that did harm needs to do so in a new process."""
    count = 0
    while True:
        batch = [*harm.before[len(harm.before) - count :], harm.data]
        try:
            with closing(Target(kind)) as target:
                target.read(batch)
        except Harm as found:
            return f"after {len(found.before)} others in a new process: {found}"
        if count >= len(harm.before):
            return "not in a new process"
        count = min(2 * count + 1, len(harm.before))


if __name__ == "__main__":
    raise SystemExit(main())
