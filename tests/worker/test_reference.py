"""Handlers are found again by name in another process, or refused before any job is lost."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobbus.context import JobContext
from jobbus.errors import (
    ConfigurationError,
)
from jobbus.handlers import Handlers, make_job_type
from jobbus.worker.isolation import ChildPool, HandlerError, reference_for
from tests.worker import child_handlers as handlers
from tests.worker.child_pool import (
    SECOND,
    context,
    run,
)


@pytest.fixture
async def pool() -> AsyncIterator[ChildPool]:
    async with ChildPool(2, term_grace=10 * SECOND, cancel_grace=10 * SECOND) as pool:
        yield pool


def test_what_no_other_process_could_find_is_refused_by_name() -> None:
    def inner(ctx: JobContext) -> None: ...

    nameless: Any = lambda ctx: None  # noqa: E731
    for function, why in ((nameless, "lambda"), (inner, "inside another function")):
        job_type = make_job_type(function, name="unfindable", isolation="process")
        with pytest.raises(ConfigurationError, match=why):
            reference_for(job_type)


def test_a_name_that_means_something_else_by_now_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_type = make_job_type(handlers.plain, name="plain", isolation="process")
    assert reference_for(job_type).qualname == "plain"
    monkeypatch.setattr(handlers, "plain", handlers.hang)
    with pytest.raises(ConfigurationError, match="something else by now"):
        reference_for(job_type)
    monkeypatch.delattr(handlers, "plain")
    with pytest.raises(ConfigurationError, match="has no plain"):
        reference_for(job_type)


async def test_a_function_that_is_no_job_type_in_its_module_is_found(pool: ChildPool) -> None:
    job_type = make_job_type(handlers.plain, name="some.other.name", isolation="process")
    assert await run(pool, job_type, text="quiet") == "QUIET"


@pytest.mark.parametrize(("name", "result"), [("shout", "HEY!"), ("ask", "HEY?")])
async def test_a_handler_in_class_form_is_found_by_its_variable_or_its_registry(
    pool: ChildPool, name: str, result: str
) -> None:
    job_type = handlers.HANDLERS.get(name) or handlers.unnamed.get(name)
    assert job_type is not None
    payload = job_type.message("hey").payload
    assert json.loads(await pool.run(job_type, context(), payload, timeout=None)) == result


APP = """
from jobbus.handlers import Handlers
handlers = Handlers()

def make():
    @handlers.job(isolation="process")
    def inner() -> str:
        return __name__

make()
"""
PLUGIN = """
from registry import handlers

@handlers.job(isolation="process")
def outer() -> str:
    return __name__
"""


async def test_an_application_is_asked_for_the_handlers_that_it_registers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "registry.py").write_text(APP)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("registry", "plugin"):
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))
    registry: Handlers = sys.modules["registry"].handlers
    async with ChildPool(1, app="registry:handlers") as pool:
        pool.check(list(registry))
        assert await run(pool, registry.get("inner")) == "registry"
        assert await run(pool, registry.get("outer")) == "plugin"


async def test_an_application_that_does_not_know_the_job_type_is_an_error_that_says_so() -> None:
    async with ChildPool(1, app="tests.worker.child_handlers:unnamed") as pool:
        with pytest.raises(ConfigurationError, match="has no job type add"):
            await run(pool, handlers.add, a=1, b=1)
    async with ChildPool(1, app="tests.worker.child_handlers:MIB") as pool:
        with pytest.raises(ConfigurationError, match="is no JobBus"):
            await run(pool, handlers.add, a=1, b=1)


MAIN_SCRIPT = """
import asyncio, os, sys
from jobbus.worker.isolation import ChildPool
from jobbus.context import JobContext
from tests.worker.child_handlers import process
from tests.worker.child_pool import run

print("loaded as", __name__, flush=True)

@process
def where(ctx: JobContext) -> str:
    return __name__

async def main():
    async with ChildPool(1) as pool:
        print("ran in", await run(pool, where), flush=True)
{start}
"""


def _run_script(path: Path, start: str) -> subprocess.CompletedProcess[str]:
    path.write_text(MAIN_SCRIPT.format(start=textwrap.dedent(start)))
    return subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)},
    )


def test_a_handler_in_the_script_itself_is_found_and_the_script_not_run_again(
    tmp_path: Path,
) -> None:
    start = """
    if __name__ == "__main__":
        asyncio.run(main())
    """
    done = _run_script(tmp_path / "app.py", start)
    assert done.stdout.splitlines() == [
        "loaded as __main__",
        "loaded as __jobbus_main__",
        "ran in __jobbus_main__",
    ], done.stderr


def test_a_script_that_starts_its_worker_without_a_guard_is_told_so(tmp_path: Path) -> None:
    done = _run_script(tmp_path / "app.py", "asyncio.run(main())")
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr


async def test_code_that_cannot_be_imported_there_fails_the_job_and_says_why(
    pool: ChildPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_type = _module(tmp_path, monkeypatch, "raise RuntimeError('not in a child')")
    with pytest.raises(HandlerError, match="not in a child") as caught:
        await run(pool, job_type)
    assert caught.value.kind == "RuntimeError"


async def test_code_that_never_finishes_importing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_type = _module(tmp_path, monkeypatch, "import signal; signal.pause()")
    async with ChildPool(1, start_timeout=SECOND / 2) as pool:
        with pytest.raises(TimeoutError, match="was not ready"):
            await run(pool, job_type)
        assert pool.pids == []


def _module(folder: Path, monkeypatch: pytest.MonkeyPatch, in_child: str) -> Any:
    """A handler in a module that behaves differently in a child."""
    (folder / "only_here.py").write_text(
        "import sys\n"
        "from jobbus.handlers import Handlers\n"
        "if 'jobbus.worker.child' in str(sys.modules['__main__'].__spec__):\n"
        f"    {in_child}\n"
        "handlers = Handlers()\n"
        "@handlers.job(isolation='process')\n"
        "def handler() -> None: ...\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "only_here", raising=False)
    import only_here  # type: ignore[import-not-found]

    monkeypatch.setitem(sys.modules, "only_here", only_here)
    return only_here.handler
