"""Fitted Q-iteration for continuous actions."""
