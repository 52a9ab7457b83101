"""jobbus beside the raw driver and its peers, measured in one run. Start it with ``make bench``."""
