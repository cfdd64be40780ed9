"""What acts: noise, collecting, episodes, and the status of a step."""
