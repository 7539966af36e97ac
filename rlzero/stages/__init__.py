"""The stages of R1 beside reinforcement learning."""
