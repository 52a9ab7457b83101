"""The parts of the Redis backend: its address, its connection, its scripts, its records."""
