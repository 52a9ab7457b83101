"""Holds the documentation to the code: tables, snippets, commands and links."""
