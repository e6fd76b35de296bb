"""Verifiers that do what verifiers should not; a completion names the misdeed.

Not a test: the pool's workers load it by its path.
"""

import ctypes
import math
import os
import re
import resource
import signal
import subprocess
import sys
import time

HELD = []


def spin():
    while True:
        pass


def sleep():
    time.sleep(100)


def regex():
    """Backtracks for years inside one C call, the GIL held throughout."""
    return re.match(r"(a+)+$", "a" * 64 + "b")


def stubborn():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, lambda *_: None)
    while True:
        try:
            time.sleep(100)
        except BaseException:
            continue


def fork_and_hang():
    """Leaves one child in the worker's group and one in a session of its own, and hangs."""
    if os.fork() == 0:
        time.sleep(100)
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
    time.sleep(100)


def fork_and_die():
    if os.fork() == 0:
        time.sleep(100)
    os._exit(4)


def fork_and_return():
    """The child comes back into the worker's loop, a second answerer."""
    os.fork()
    return [True]


def leave_child():
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
    return [True]


def flood():
    for _ in range(200):
        os.write(1, b"x" * 65536)
        os.write(2, b"x" * 65536)
    sys.stdout.write("y" * 10_000_000)
    return [sys.stdin.read() == ""]


def exhaust():
    HELD.append(bytearray(1 << 40))


def leak():
    """Fills the process's memory for good but for about 8 MB, and says nothing about it."""
    try:
        while True:
            HELD.append(bytearray(8 << 20))
    except MemoryError:
        return [True]


def modest():
    """Right, and in need of 64 MB."""
    return [len(bytearray(64 << 20)) > 0]


def close_everything():
    os.closerange(3, 256)
    return [True]


def close_and_hang():
    os.closerange(3, 256)
    time.sleep(100)


def garbage():
    os.write(int(sys.argv[1]), b"\x00\x00\x00\x05hello")
    time.sleep(100)


def huge_frame():
    os.write(int(sys.argv[1]), b"\xff\xff\xff\xff")
    time.sleep(100)


def forged():
    os.write(int(sys.argv[1]), b'\x00\x00\x00\x27[999999,1.0,["ok",true,1.0,"",false]]  ')
    time.sleep(100)


DEEDS = {
    "spin": spin,
    "sleep": sleep,
    "regex": regex,
    "stubborn": stubborn,
    "fork and hang": fork_and_hang,
    "fork and die": fork_and_die,
    "fork and return": fork_and_return,
    "leave child": leave_child,
    "leave program": lambda: [subprocess.Popen(["sleep", "100"]).pid > 0],
    "leave unmarked": lambda: [float(subprocess.Popen(["sleep", "100"], env={}).pid)],
    "flood": flood,
    "exhaust": exhaust,
    "leak": leak,
    "modest": modest,
    "exit": lambda: os._exit(3),
    "segfault": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "close everything": close_everything,
    "close and hang": close_and_hang,
    "garbage": garbage,
    "huge frame": huge_frame,
    "forged": forged,
    "raise": lambda: 1 // 0,
    "sys.exit": lambda: sys.exit("no more"),
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "None": lambda: None,
    "[None]": lambda: [None],
    "nan": lambda: [math.nan],
    "inf": lambda: [math.inf],
    "too many": lambda: [1.0, 0.0],
    "too few": lambda: [],
    "bare number": lambda: 1.0,
    "text": lambda: ["1.0"],
    "right": lambda: [1.0],
    "wrong": lambda: [0.0],
    "pid": lambda: [float(os.getpid())],
    "limits": lambda: [
        resource.getrlimit(resource.RLIMIT_AS)[0] == 512 << 20
        and resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    ],
    "secret": lambda: ["BAPO_TEST_SECRET" in os.environ],
    "session": lambda: [os.getsid(0) == os.getpid()],
}


def large_file(path):
    with open(path, "wb") as file:
        file.truncate(65 << 20)
    return [True]


def misbehave(completions, path=None):
    """Does what the one completion says."""
    (completion,) = completions
    if completion.startswith("wait "):
        time.sleep(float(completion.removeprefix("wait ")))
        return [True]
    if completion == "large file":
        return large_file(path[0])
    return DEEDS[completion]()
