"""The most memory that this process has used so far."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_PEAK = "VmHWM:"


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes allocated at most since the process started.

    Args:
        device: Of a CUDA device, what torch's tensors took on it; of a CPU, what the process took
            in main memory, libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file():  # getrusage counts what the program was that started this one, too
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
        found = [line.split()[1] for line in lines if line.startswith(_PEAK)]
        if found:
            return 1024 * int(found[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
