"""A library as jobs: ``scan`` finds the files, ``analyze`` reads one, ``export`` writes the report.

::

    scan ──┬── analyze   one child per file, enqueued in batches
           ├── analyze
           ├── ...
           └── export    waits until every analyze has ended, well or badly

Read this file from top to bottom. Everything that has to do with jobs is here; what the jobs *do*
is plain Python beside it (``files.py``, ``analysis.py``, ``report.py``), and knows nothing of jobs.

Run it with ``jobbus demo PATH``. Kill it in the middle and run it again: it goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from jobbus import (
    Dependency,
    Job,
    JobBus,
    JobContext,
    JobFilter,
    JobState,
    OnFailure,
    RetryPolicy,
)
from jobbus.context import child_id
from jobbus.job import UNFINISHED

from . import errors
from .analysis import DEFAULT_LIMIT_BYTES, Analysis, analyse
from .files import FoundFile, labels, listing_once, mark_generated, native, portable
from .report import Failure, Report

QUEUE: Final = "library"
BATCH: Final = 200
MAX_CRASHES: Final = 50
"""A job whose worker dies under it is suspect, and by default the third time is its last. Here the
worker is killed on purpose, again and again, and the jobs are not to blame."""

bus = JobBus()
"""Holds the job types. It opens no database before it is asked to; settings say which."""


# --- scan: one job makes many -----------------------------------------------------------------


@bus.job(name="library.scan", queue=QUEUE, max_crashes=MAX_CRASHES)
async def scan(
    ctx: JobContext, roots: list[str], output: str, limit_bytes: int, exclude: list[str]
) -> dict[str, Any]:
    """Find the files under ``roots``, and enqueue an ``analyze`` for each and an ``export``.

    This may be killed anywhere and run again from its start, so both its halves can be repeated:
    the files found are written down the first time (files come and go, and the second run must not
    see others than the first), and ``ctx.spawn`` derives the children's ids from the key and the
    order, so that enqueueing the same child again changes nothing.
    """
    ctx.progress(0, "listing", "looking for files")
    found = await asyncio.to_thread(_list_files, output, ctx.job_id, roots, exclude)
    children: list[str] = []
    for number, batch in enumerate(_batches(found)):
        messages = [
            analyze.message(root=file.root, path=file.path, limit_bytes=limit_bytes)
            for file in batch
        ]
        children += await ctx.spawn(*messages, key=f"analyze-{number}")
        ctx.progress(100 * len(children) / len(found), "enqueueing", f"{len(children)} files")

    # RUN: a file that fails does not stop the report; it is in the report.
    after = [Dependency(child, OnFailure.RUN) for child in children]
    last = export.options(depends_on=after, tags=ctx.tags).message(roots=roots, output=output)
    await ctx.spawn(last, key=EXPORT_KEY)
    return {"files": len(found)}


def _list_files(output: str, job_id: str, roots: list[str], exclude: list[str]) -> list[FoundFile]:
    folder = Path(native(output))
    mark_generated(folder)
    left_out = [folder, *(Path(native(place)) for place in exclude)]
    return listing_once(folder / ".listing.json", job_id, roots, exclude=left_out)


def _batches(found: Sequence[FoundFile]) -> Iterator[Sequence[FoundFile]]:
    """Not one by one (a commit each), and not all at once (one huge one)."""
    return (found[start : start + BATCH] for start in range(0, len(found), BATCH))


# --- analyze: the work, and how it fails --------------------------------------------------------

RETRY: Final = RetryPolicy(
    max_attempts=3,
    base=timedelta(seconds=0.2),
    cap=timedelta(seconds=1),
    # A file that is too large stays so: to the dead letters at once. One that is cut short may
    # still be being written, and one that cannot be read may be locked: those are tried again.
    permanent=errors.PERMANENT,
)


@bus.job(name="library.analyze", queue=QUEUE, retry=RETRY, max_crashes=MAX_CRASHES)
def analyze(root: str, path: str, limit_bytes: int) -> dict[str, Any]:
    """Read one file. A plain ``def`` runs in a thread, so reading stops nobody else.

    What it returns is kept with the job; what it raises decides, with ``RETRY``, what comes next.
    """
    return analyse(FoundFile(root, path).place, limit_bytes=limit_bytes).to_dict()


# --- export: what the others left in the ledger -------------------------------------------------


@bus.job(name="library.export", queue=QUEUE, max_crashes=MAX_CRASHES)
async def export(ctx: JobContext, roots: list[str], output: str) -> dict[str, Any]:
    """Collect what became of every file, and write ``report.json`` and ``report.csv``.

    It starts when its siblings have ended, because it depends on them. Their results are jobs'
    results, and the ledger has them.
    """
    siblings = JobFilter(parent_id=ctx.parent_id, job_type="library.analyze")
    outcomes = [outcome async for outcome in _outcomes(bus.find_all(siblings), labels(roots))]
    ctx.progress(50, "writing", f"{len(outcomes)} files")
    report = Report.of(outcomes)
    places = await asyncio.to_thread(report.write, Path(native(output)))
    return {"json": str(places.json), "csv": str(places.csv), **report.summary()}


async def _outcomes(
    jobs: AsyncIterator[Job], names: dict[str, str]
) -> AsyncIterator[tuple[str, Analysis | Failure]]:
    async for job in jobs:
        file = json.loads(job.payload)
        name = "/".join(filter(None, (names[file["root"]], file["path"])))
        if job.state is JobState.COMPLETED and job.result is not None:
            yield name, Analysis.from_dict(json.loads(job.result))
        else:
            yield name, _failure(job)


def _failure(job: Job) -> Failure:
    """Why a job has no result, without what would differ from run to run."""
    if job.problem is None:
        return Failure(kind=job.state.value, attempts=job.failures)
    ours = job.problem.kind in errors.KINDS
    reason = job.problem.message if ours else ""
    return Failure(kind=job.problem.kind, attempts=job.failures, reason=reason)


# --- starting it, and starting it again ---------------------------------------------------------

EXPORT_KEY: Final = "export"


async def start(
    roots: Iterable[Path],
    output: Path,
    *,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    exclude: Iterable[Path] = (),
) -> str:
    """Enqueue a scan and return its id; where the same one has not come to its report, that one's.

    The unique key holds from the scan's beginning to its end; the export, which is there before the
    scan ends, carries it on as a tag. So between the two nothing is forgotten, and nothing is begun
    twice.
    """
    folders, (folder,), left_out = _texts(roots), _texts([output]), _texts(exclude)
    key = run_key(folders, folder, limit_bytes)
    waiting = JobFilter(job_type="library.export", tag=key, states=UNFINISHED)
    async for job in bus.find_all(waiting):
        if job.parent_id is not None:
            return job.parent_id
    return await scan.options(unique_key=key, tags=(key,)).enqueue(
        roots=folders, output=folder, limit_bytes=limit_bytes, exclude=left_out
    )


def run_key(roots: Sequence[str], output: str, limit_bytes: int) -> str:
    """The same for the same wish: these folders, this output, this limit."""
    wish = json.dumps([roots, output, limit_bytes])
    return f"library:{hashlib.sha256(wish.encode()).hexdigest()[:32]}"


def export_id(scan_id: str) -> str:
    """The id that the export of this scan has, or will have: it follows from the scan's."""
    return child_id(scan_id, f"{EXPORT_KEY}/0")


def _texts(places: Iterable[Path]) -> list[str]:
    """Places as a payload holds them: absolute, for a worker may stand elsewhere; plain text."""
    return [portable(str(place.absolute())) for place in places]
