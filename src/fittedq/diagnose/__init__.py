"""What a learned policy and its critic are worth to each other."""
