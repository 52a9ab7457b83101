"""Jobs and the application's own data in one transaction, and what the databases make of it."""
