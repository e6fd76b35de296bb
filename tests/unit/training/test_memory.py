import numpy as np
import torch

from bapo.training.memory import peak_memory_bytes

CPU = torch.device("cpu")


def test_the_peak_counts_what_was_used_for_a_moment_and_never_falls():
    before = peak_memory_bytes(CPU)
    assert 50e6 < before < 1e12  # Python with torch; a unit off by 1024 would not be in it
    held = np.ones(before // 8 + 40_000_000)  # more than all there was, each page written
    del held
    after = peak_memory_bytes(CPU)
    assert after >= before + 300_000_000
    assert peak_memory_bytes(CPU) == after
