"""The command line, ``jobbus``. Importing this package loads none of what its commands need.

Exit codes: 0 done; 1 a job failed, or a check did; 2 usage, settings or input; 3 the backend cannot
be reached; 4 no such job, queue or job type; 5 what was asked conflicts with how things stand; 130
interrupted.
"""

from __future__ import annotations


def main() -> None:
    """The console script. Ends the process with one of the exit codes above."""
    import sys

    try:
        from jobbus.cli.root import app
    except KeyboardInterrupt:
        sys.exit(130)
    app()
