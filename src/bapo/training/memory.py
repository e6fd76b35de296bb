"""The most memory that this process has used so far."""

import resource
import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Bytes allocated at most since the process started.

    Args:
        device: Of a CUDA device, what torch's tensors took on it; of a CPU, what the process took
            in main memory, libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
