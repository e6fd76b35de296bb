"""Seeds of parts of a run, derived from the run's seed and a name."""

import hashlib


def derived_seed(seed: int, name: str) -> int:
    """A seed in [0, 2**63) that depends on the run's seed and a part's name alone."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
