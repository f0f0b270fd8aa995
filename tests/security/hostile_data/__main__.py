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
    """Run inputs of some kinds; the exit status is 1 if one did harm."""
    parser = argparse.ArgumentParser("python -m tests.security.hostile_data", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs of all kinds together")
    parser.add_argument(
        "--kind", choices=INPUTS, action="append", help="may be given several times"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    kinds = options.kind or list(INPUTS)
    return max([run(kind, options.count // len(kinds), options.seed) for kind in kinds])


def run(kind: str, count: int, first_seed: int) -> int:
    """Run inputs of one kind; 1 if one did harm."""
    target, outcomes = Target(kind), collections.Counter[str]()
    started = time.monotonic()
    for number in range(-(-count // _AT_ONCE)):
        at_once = min(_AT_ONCE, count - number * _AT_ONCE)

        @seed(first_seed + number)
        @settings(
            max_examples=at_once,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(INPUTS[kind])
        def give(data: bytes) -> None:
            outcomes[target.read(data) or "taken"] += 1

        try:
            give()
        except Harm as harm:
            notes = "\n".join(getattr(harm, "__notes__", ()))
            sys.stdout.write(f"{kind}: seed {first_seed + number}: {harm}\n{notes}\n")
            return 1
        finally:
            target.close()
        done, seconds = outcomes.total(), time.monotonic() - started
        sys.stdout.write(f"{kind}: {done:,} inputs in {seconds:.0f} s: {dict(outcomes)}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
