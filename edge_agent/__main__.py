"""The agent and nothing else, as a process: `python -m edge_agent --config gateway.toml`.

`fieldline edge run` becomes it, because a gateway has little memory and the command line's libraries would stay in
it for as long as the agent runs. For the same reason the C library is told to keep no memory in reserve for
threads (there is one beside the event loop's) and to give back what is free.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from telemetry.program import log_to_stderr, told

MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": str(512 * 1024)}
"""For glibc, mallopt(3); others do not know these names. What the environment says already comes first."""


def become(config: Path, *, verbose: bool) -> NoReturn:
    """Go on as the agent, in the same process."""
    options = ["--verbose"] if verbose else []
    # -P: from where this code is, and not from the working directory, whatever lies there.
    command = [sys.executable, "-P", "-m", "edge_agent", "--config", str(config), *options]
    code = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    os.execve(  # noqa: S606 - ourselves
        sys.executable, command, MALLOC | os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, code))}
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m edge_agent", description="Collect, keep on disk, and forward.")
    parser.add_argument("--config", "-c", type=Path, required=True, help="The config file (TOML).")
    parser.add_argument("--verbose", "-v", action="store_true", help="Log more.")
    given = parser.parse_args()
    log_to_stderr(verbose=given.verbose)
    told(lambda: here(given.config))


def here(config: Path) -> NoReturn:
    """The agent in this process, until it is stopped."""
    from edge_agent.config import load  # noqa: PLC0415 - behind --help
    from edge_agent.run import run  # noqa: PLC0415 - as above

    sys.exit(run(load(config)))


if __name__ == "__main__":
    main()
