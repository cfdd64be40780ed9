"""Exact argmax where the critic admits it."""
