"""What a controller would earn, told from a log without trying it."""
