"""How a program ends when something is wrong: with one line, also where several processes find the same thing wrong."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from util.interruption import Interrupted, exit_status

USER_ERRORS = (ValueError, OSError, FloatingPointError)
# torchrun ends all processes as soon as one has ended with an error.
SECONDS_FOR_MAIN_PROCESS = 10.0
SECONDS_FOR_CAUSE = 20.0


@contextlib.contextmanager
def told_in_one_line(tell: Callable[[Exception], None] | None = None) -> Iterator[None]:
    """End the program with status 1 and one line when a setting, a file or the disk is to blame for an error.

    Under torchrun what is wrong for all processes is told by the main one alone: the others give it time to end first,
    and are ended with it. What is wrong in one process only is told by that one. A RuntimeError may be no more than the
    connection to a process that has failed, so that one is given time too.

    Ctrl-C ends the program without a traceback, with status 130, or after a signal that it has handled with that one's.

    Args:
        tell: prints the line; None prints it to the console behind `error: `.
    """
    try:
        yield
    except USER_ERRORS as problem:
        let_main_process_speak()
        if tell is None:
            sys.exit(f"error: {describe(problem)}")
        tell(problem)
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        if not isinstance(interrupt, Interrupted):
            print("interrupted", file=sys.stderr)  # noqa: T201 (the program's own output)
        sys.exit(exit_status(interrupt))
    except RuntimeError:
        if _num_processes() > 1:
            time.sleep(SECONDS_FOR_CAUSE)
        raise


def describe(problem: Exception) -> str:
    """An error for people: the file and the reason, without the system's number."""
    if not isinstance(problem, OSError) or problem.errno is None or not problem.strerror:
        return str(problem)
    return problem.strerror if problem.filename is None else f"{problem.filename}: {problem.strerror}"


def let_main_process_speak() -> None:
    """In another process than the main one: wait until torchrun ends this one, in vain if only this one has failed."""
    if _num_processes() > 1 and os.environ.get("RANK", "0") != "0":
        time.sleep(SECONDS_FOR_MAIN_PROCESS)


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
