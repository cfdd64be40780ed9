"""The sentence every method is: greedy step, ordered regressions, sync."""
