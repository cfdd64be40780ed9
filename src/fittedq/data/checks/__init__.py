"""What a log can teach: one file per check, each with a figure, its limit, the reason for the limit, and a remedy."""
