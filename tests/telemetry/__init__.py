"""What is counted, shown, traced and told."""
