"""What the SQL backends share: statements, and the programs that run them."""
