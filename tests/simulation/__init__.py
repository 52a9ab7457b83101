"""Workers on virtual time: every run is decided by its seed, and can be had again."""
