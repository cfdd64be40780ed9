"""Pages and films that show runs."""
