"""What goes on beside the work: each service is one ``*_once()`` step, and one loop runs them."""
