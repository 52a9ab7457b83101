"""Brokers with a ledger around them."""
