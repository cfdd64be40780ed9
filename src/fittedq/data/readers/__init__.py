"""Logs of other tools, a file for each format."""
