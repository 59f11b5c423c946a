"""python -m tests.sim --seed 7: one run with its story; --seeds 2000: many, which failed and how long it took."""

import argparse
import sys
import time

from tests.sim.world import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run, one after another (default 1)")
    options = parser.parse_args()
    began_s, failed = time.monotonic(), []
    for seed in range(options.seed, options.seed + options.seeds):
        world = run(seed)
        if options.seeds == 1 or world.violations:
            print(*world.log, sep="\n")
        if world.violations:
            failed.append(seed)
            print(f"seed {seed}: {world.violations[0]}", flush=True)
        if options.seeds > 1 and sys.stderr.isatty():
            print(f"\r{seed - options.seed + 1}/{options.seeds}, {len(failed)} failed", end="", file=sys.stderr)
    print(
        f"{options.seeds} seeds from {options.seed} in {time.monotonic() - began_s:.1f} s, failed: {failed or 'none'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
