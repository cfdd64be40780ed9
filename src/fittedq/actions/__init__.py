"""Sets of actions: boxes, polytopes, whole numbers, limits that depend on the state."""
