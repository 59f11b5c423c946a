"""What the entry points of all programs share: what they log, and how they tell what went wrong."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator

from telemetry.errors import FieldlineError


def log_to_stderr(*, verbose: bool = False) -> None:
    """One line per event, with its time."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )


def told(program: Callable[[], object]) -> None:
    """Run a program. What we raise on purpose ends it with a sentence, not a traceback; also from a TaskGroup."""
    try:
        program()
    except FieldlineError as error:
        _tell([error])
    except ExceptionGroup as group:
        if group.split(FieldlineError)[1] is not None:
            raise
        _tell(_leaves(group))


def _tell(errors: Iterable[Exception]) -> None:
    for error in errors:
        print(f"fieldline: {error}", file=sys.stderr)
    sys.exit(1)


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
