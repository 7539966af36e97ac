"""Rollouts: one engine interface, several engines."""
