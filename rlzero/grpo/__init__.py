"""Group Relative Policy Optimization."""
