"""What a controller sees beside the newest observation: history, errors, integrals, its last action."""
