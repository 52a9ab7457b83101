"""The cases of the two conformance suites, one theme to a module."""
