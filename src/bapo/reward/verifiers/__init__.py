"""Verifiers that come with bapo; each is also an example of how to write one."""
