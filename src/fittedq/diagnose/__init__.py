"""How good a learned policy, its critic and its model are."""
