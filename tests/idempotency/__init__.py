"""Idempotency keys: the stores, the policy, and workers that go by them."""
