"""python -m bench.effects METHOD ...      the checks of these methods; "all": of every method; "missing": not run yet.

Writes bench/results/effects/<method>.json. One thread is the fastest on networks this small.
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench.effects.core import CHECKS, RESULTS, SEEDS, measure, write
from limbeck.errors import nearest


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.effects", description=__doc__)
    parser.add_argument("methods", nargs="+", help="names, 'all' or 'missing'")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="how many; files are written for all five only")
    asked = parser.parse_args()
    names = asked.methods
    if names == ["all"]:
        names = sorted(CHECKS)
    if names == ["missing"]:
        names = [name for name in sorted(CHECKS) if not (RESULTS / f"{name}.json").exists()]
    for name in names:
        if name not in CHECKS:
            sys.exit(f"no check of {name!r}; {nearest(name, CHECKS)}")
    torch.set_num_threads(1)
    for name in names:
        found = measure(CHECKS[name], asked.seeds)
        if asked.seeds == len(SEEDS):
            write(found)
        mean, low, high = found["difference"]
        print(
            f"{name:24} {found['figure']}: {mean:+.3f} ({low:+.3f} to {high:+.3f}) against {found['baseline']}; "
            f"reproduced: {found['reproduced']}; {found['seconds']:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
