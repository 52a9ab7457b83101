"""Peers that stand for services which no machine can run for itself."""
