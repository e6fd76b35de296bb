"""Off-policy reinforcement learning with verifiable rewards, built around BAPO (arXiv 2602.20722)."""
