"""Verifiers that do what verifiers should not; a completion names the misdeed.

The pool's workers load this by its path; nothing else runs it.
"""

import ctypes
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

HELD: list[bytearray] = []


def spin() -> None:
    """Never comes back."""
    while True:
        pass


def sleep() -> None:
    """Comes back after the test."""
    time.sleep(100)


def regex() -> Any:
    """Backtracks for years inside one C call, the GIL held throughout."""
    return re.match(r"(a+)+$", "a" * 64 + "b")


def stubborn() -> None:
    """Ignores every signal that can be ignored, and swallows every exception."""
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, lambda *_: None)
    while True:
        try:
            time.sleep(100)
        except BaseException:
            continue


def fork_and_hang() -> None:
    """Leaves one child in the worker's group and one in a session of its own, and hangs."""
    if os.fork() == 0:
        time.sleep(100)
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
    time.sleep(100)


def fork_and_die() -> None:
    """Leaves a child and dies."""
    if os.fork() == 0:
        time.sleep(100)
    os._exit(4)


def fork_and_return() -> list[bool]:
    """The child comes back into the worker's loop, a second answerer."""
    os.fork()
    return [True]


def leave_child() -> list[bool]:
    """Leaves a child in a session of its own, and answers once it has that session."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(writing, b"x")
        time.sleep(100)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return [True]


def leave_program() -> list[bool]:
    """Leaves a program running, and answers."""
    return [subprocess.Popen(["sleep", "100"]).pid > 0]


def flood() -> list[bool]:
    """Writes 36 MB to where it should not, and reads where nothing is."""
    for _ in range(200):
        os.write(1, b"x" * 65536)
        os.write(2, b"x" * 65536)
    sys.stdout.write("y" * 10_000_000)
    return [sys.stdin.read() == ""]


def exhaust() -> None:
    """Asks for a terabyte."""
    HELD.append(bytearray(1 << 40))


def hoard() -> None:
    """Asks for memory bit by bit, for as long as there is any, and swallows what it is told."""
    while True:
        try:
            HELD.append(bytearray(8 << 20))
        except MemoryError:
            continue


def close_and_hang() -> None:
    """Closes its channel to the pool, and hangs."""
    os.closerange(3, 256)
    time.sleep(100)


DEEDS: dict[str, Callable[[], Any]] = {
    "spin": spin,
    "sleep": sleep,
    "regex": regex,
    "stubborn": stubborn,
    "fork and hang": fork_and_hang,
    "fork and die": fork_and_die,
    "fork and return": fork_and_return,
    "leave child": leave_child,
    "leave program": leave_program,
    "flood": flood,
    "exhaust": exhaust,
    "hoard": hoard,
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "close and hang": close_and_hang,
    "raise": lambda: 1 // 0,
    "sys.exit": lambda: sys.exit("no more"),
    "None": lambda: None,
    "nan": lambda: [math.nan],
    "right": lambda: [True],
    "wrong": lambda: [False],
}


def misbehave(completions: list[str]) -> Any:
    """Does what the one completion says."""
    (completion,) = completions
    return DEEDS[completion]()
