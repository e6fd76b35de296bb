"""More of what verifiers should not do; a completion names the misdeed.

Not a test: the pool's workers load it by its path. What users are shown in `bapo selftest` is in
`bapo.selftest.misdeeds`, and here too.
"""

import math
import os
import resource
import signal
import subprocess
import sys
import time

from bapo.selftest import misdeeds
from bapo.selftest.misdeeds import HELD


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
    **misdeeds.DEEDS,
    "leave unmarked": lambda: [float(subprocess.Popen(["sleep", "100"], env={}).pid)],
    "leak": leak,
    "modest": modest,
    "close everything": close_everything,
    "garbage": garbage,
    "huge frame": huge_frame,
    "forged": forged,
    "raise": lambda: 1 // 0,
    "interrupt": lambda: signal.raise_signal(signal.SIGINT),
    "[None]": lambda: [None],
    "inf": lambda: [math.inf],
    "too many": lambda: [1.0, 0.0],
    "too few": lambda: [],
    "bare number": lambda: 1.0,
    "text": lambda: ["1.0"],
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
