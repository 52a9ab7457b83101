"""The library example's modules, under one name for type checkers and for the running program."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Where a checkout has it, which is where it is checked.
    from examples.library import analysis, errors, files, jobs, report, samples
else:
    from jobbus.demo.library import analysis, errors, files, jobs, report, samples

__all__ = ["analysis", "errors", "files", "jobs", "report", "samples"]
