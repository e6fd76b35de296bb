"""pass@k, the chance that at least one of k completions is correct."""

from math import comb


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of pass@k for one prompt (arXiv 2107.03374, equation 1).

    Args:
        samples: Completions verified, at least k.
        correct: How many of them are correct.
        k: At least 1.

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: There are fewer samples than k, or more correct ones than samples.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {correct} of {samples} correct.")
    return 1.0 - comb(samples - correct, k) / comb(samples, k)
