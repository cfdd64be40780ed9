"""From data to a learned state, step by step: one file for each kind of data and of method."""
