"""Real worker processes, killed at every step of a job; and a checker of what they leave behind."""
