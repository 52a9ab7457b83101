"""``python -m jobbus`` is the command line."""

from __future__ import annotations

from jobbus.cli import main

if __name__ == "__main__":
    main()
