"""Local search for argmax q: a good action soon, no proof."""
