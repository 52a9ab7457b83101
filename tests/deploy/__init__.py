"""The files in deploy/, held against the tools that read them."""
