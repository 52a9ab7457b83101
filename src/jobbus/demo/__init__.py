"""Finds the library example: within the installed package, or in ``examples/`` of a checkout.

There is one copy of it. The wheel carries it as ``jobbus.demo.library``; in a checkout, this
package looks for its parts in ``examples/`` as well, so that the same name is importable in both,
also in worker processes and in children that run a handler.
"""

from __future__ import annotations

from pathlib import Path

from jobbus.errors import ConfigurationError


def locate() -> Path:
    """The folder with the example's code. Raises ConfigurationError where it was not shipped."""
    here = Path(__file__).resolve().parent
    for folder in (here, here.parents[2] / "examples"):
        if (folder / "library" / "jobs.py").is_file():
            return folder / "library"
    raise ConfigurationError(
        "the demo's code is missing from this installation of jobbus: install it from its wheel, "
        "or run it in a checkout that has the folder examples/"
    )


__path__ = list(dict.fromkeys([*__path__, str(locate().parent)]))
