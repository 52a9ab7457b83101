"""The worker and the bus together, as applications use them, on every backend of the core."""
