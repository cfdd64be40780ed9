"""Function approximators: critics, policies and values."""
