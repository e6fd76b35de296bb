"""A verifier process: loads one verifier, then answers one completion after another.

Started by `bapo.reward.process` as `python -m bapo.reward.worker CHANNEL LIFELINE`, two inherited
file descriptors, in a session of its own. It imports the standard library only, so that it starts
in milliseconds.

What is held against the user's code here: limits on address space, file size and core dumps;
standard streams that lead nowhere (set by the pool); and the lifeline, a pipe whose other end only
the training process holds: when that process is gone, however it went, the kernel kills this
process and its group, even while the interpreter is stuck. Everything else (hangs, crashes) is
the pool's affair. This contains accidents; it is no sandbox against malice.
"""

import fcntl
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, cast

from bapo.reward.loading import Interface, LoadError, Verifier, describe, load_verifier
from bapo.reward.outcomes import Outcome, error, invalid, outcome_of
from bapo.reward.protocol import encode, read_message, write_all


def main(arguments: list[str]) -> None:
    """Runs until the pool is gone or kills this process.

    Args:
        arguments: The numbers of the channel's and the lifeline's descriptors.
    """
    channel, lifeline = (int(argument) for argument in arguments)
    die_with_the_pool(lifeline)
    setup = cast("dict[str, Any]", read_message(channel))
    limit_resources(setup["memory_megabytes"], setup["file_megabytes"])
    sys.path[:] = setup["path"]
    os.environ.pop("PYTHONPATH", None)  # it only served to find this package
    try:
        verifier = load_verifier(setup["verifier"])
        ready = encode({"interface": verifier.interface._asdict()})
    except LoadError as failure:
        write_all(channel, encode({"failed": str(failure)}))
        return
    except (TypeError, ValueError, RecursionError) as failure:
        sentence = f"GOLDEN beside '{setup['verifier']}' holds more than JSON values: {failure}."
        write_all(channel, encode({"failed": sentence}))
        return
    write_all(channel, ready)
    serve(channel, verifier)


def die_with_the_pool(lifeline: int) -> None:
    """Has the kernel kill this process group when the last writer of `lifeline` is gone.

    Unlike the parent-death signal it reaches children too, and does not mistake the end of the
    thread that started this process for the end of the training process.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    watch = select.poll()
    watch.register(lifeline, select.POLLHUP)
    if watch.poll(0):  # it went before the watch was set
        os.killpg(0, signal.SIGKILL)


def limit_resources(memory_megabytes: int, file_megabytes: int) -> None:
    """Bounds address space and written files, and turns core dumps off."""
    for limit, value in (
        (resource.RLIMIT_AS, memory_megabytes << 20),
        (resource.RLIMIT_FSIZE, file_megabytes << 20),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (bounded, bounded))


def serve(channel: int, verifier: Verifier) -> None:
    """Answers chunks until the pool closes the channel.

    Each item is called alone: only so can the pool know which one hangs, and answer the others.
    """
    own_process = os.getpid()
    while True:
        try:
            chunk = cast("list[tuple[int, Any, dict[str, Any]]]", read_message(channel))
        except EOFError:
            return
        for item, completion, columns in chunk:
            start = time.perf_counter()
            if completion is None:
                outcome = check_one(verifier, columns)
            else:
                outcome = verify_one(verifier.function, verifier.interface, completion, columns)
            if os.getpid() != own_process:  # a child that the verifier forked came back here
                os._exit(0)
            milliseconds = (time.perf_counter() - start) * 1000.0
            write_all(channel, encode((item, milliseconds, outcome)))


def verify_one(
    function: Callable[..., Any],
    interface: Interface,
    completion: Any,
    columns: dict[str, Any],
) -> Outcome:
    """Calls the verifier on one completion; whatever it does but die or hang becomes an outcome.

    Args:
        function: The verifier.
        interface: What it takes.
        completion: A text, or a list of `{"role": ..., "content": ...}`.
        columns: Of its prompt.
    """
    missing = [name for name in interface.required if name not in columns]
    if missing:
        return error(f"The verifier needs the column '{missing[0]}', which this prompt lacks.")
    if not interface.takes_any:
        columns = {name: columns[name] for name in interface.named if name in columns}
    try:
        return outcome_of(
            function(completions=[completion], **{name: [value] for name, value in columns.items()})
        )
    except MemoryError:
        return error(
            "The verifier ran out of memory; 'reward.memory_megabytes' limits it.",
            out_of_memory=True,
        )
    # The user's code may raise anything, SystemExit and KeyboardInterrupt included. It is caught
    # here, and only here, and is counted as what it is: an error of the verifier.
    except BaseException as raised:
        return error(f"The verifier raised {describe(raised)}.")


def check_one(verifier: Verifier, columns: dict[str, Any]) -> Outcome:
    """Asks `check_columns` about the columns of one row: `ok`, or `invalid` with its reason."""
    assert verifier.check is not None  # the pool asks no other
    try:
        reason = verifier.check(**columns)
    # As above: the user's code may raise anything, and then says so of the row.
    except BaseException as raised:
        return invalid(describe(raised))
    return invalid(str(reason)) if reason else Outcome("ok", True, 1.0, "")


if __name__ == "__main__":
    main(sys.argv[1:])
