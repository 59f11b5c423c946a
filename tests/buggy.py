"""`fieldline` with a bug of tests/sim/bugs.py planted in it, as a process: python -m tests.buggy BUG ARGUMENT…"""

import sys

import fieldline
from tests.sim.bugs import ONLY_REAL, PLANTED

if __name__ == "__main__":
    bug = sys.argv.pop(1)
    with (PLANTED | ONLY_REAL)[bug]():
        fieldline.main()
