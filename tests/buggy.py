"""`fieldline` with a bug of tests/sim/bugs.py planted in it, as a process: python -m tests.buggy BUG ARGUMENT…"""

import sys
from unittest import mock

import fieldline
from edge_agent import __main__ as agent
from tests.sim.bugs import ONLY_REAL, PLANTED

if __name__ == "__main__":
    bug = sys.argv.pop(1)
    stays = mock.patch.object(agent, "become", lambda config, **_: agent.here(config))  # else it would lose the bug
    with stays, (PLANTED | ONLY_REAL)[bug]():
        fieldline.main()
