"""Controllers that leave Python: one program, rendered in the language of the plant, verified against the agent."""
