"""Off-policy reinforcement learning with verifiable rewards, built around BAPO."""
