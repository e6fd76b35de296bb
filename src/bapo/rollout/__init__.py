"""Samples completions: engines, policy versions, and how a policy is loaded."""
