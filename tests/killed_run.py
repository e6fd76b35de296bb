"""The command line of bapo in processes that kill themselves at a named point of a run.

`forked` starts one within milliseconds, from a server that has imported everything already; the
command line is `python -m tests.killed_run POINT TIMES train RECIPE --output RUN`. POINT is `none`
or one of `bapo.selftest.killing.POINTS`; the process dies when it gets there for the TIMES-th time,
from 1. At `stuck` it hangs instead.
"""

import sys

from bapo.cli import main as command_line
from bapo.selftest.killing import Trap, spring
from bapo.selftest.killing import forked as forked_command


def trap(point, times):
    return None if point == "none" else Trap(point, int(times))


def forked(point, times, log, *arguments):
    """Starts the command line in a process of its own; what it says goes to a file."""
    return forked_command(command_line, log, arguments, trap(point, times))


def main(point, times, *arguments):
    if point != "none":
        spring(trap(point, times))
    sys.argv = ["bapo", *arguments]
    command_line()


if __name__ == "__main__":
    main(*sys.argv[1:])
