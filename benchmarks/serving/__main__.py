"""Many callers, one row a call: ``python -m benchmarks.serving`` prints what each way gives them.

The bound is the same rows as whole batches of 64 in this process. Two processes serve, each with
one thread of BLAS. Rounds are interleaved, and the median of them is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os


def main() -> None:
    """Measure, and print the tables."""
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # before numpy is imported, here and in what starts
    from benchmarks.serving import measures
    from benchmarks.serving.contestants import CONTESTANTS, available

    parser = argparse.ArgumentParser("python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--callers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each way, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    options = parser.parse_args()
    missing = [name for name in options.contestants if not available(name)]
    chosen = {name: CONTESTANTS[name] for name in options.contestants if name not in missing}
    bound = measures.bound()
    found = asyncio.run(measures.load(chosen, options.callers, options.seconds, options.rounds))
    print(measures.table(found, bound, options.callers))
    print()
    print(asyncio.run(measures.particulars()))
    for name in missing:
        print(f"\n{name} is not installed.")


if __name__ == "__main__":
    main()
