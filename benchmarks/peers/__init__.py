"""One module for each thing that is measured; each runs in a process of its own."""
