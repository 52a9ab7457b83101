"""Attacks on running workers, and the bugs that prove that the attacks would find some."""
