"""From options to settings, to the application, to an open bus."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any, Final

from jobbus.cli.failures import BadUsage
from jobbus.cli.text import did_you_mean, plain
from jobbus.errors import BackendUnavailable, ConfigurationError

if TYPE_CHECKING:
    from jobbus.bus import JobBus
    from jobbus.cli.options import Shared
    from jobbus.queue import BackgroundJobQueue
    from jobbus.settings import Settings

USUAL_APPS: Final = ("tasks", "jobs")
"""Modules of the working directory that are looked at when nobody names an application."""
_USUAL_NAME: Final = "bus"
_APP_FIX: Final = (
    "name it as module:attribute: --app myservice.jobs:bus, BACKGROUND_JOBS__APP, or app in "
    "jobbus.toml"
)


@dataclass(frozen=True, slots=True)
class Application:
    """An application's bus, and where it was found, in a form that other processes understand."""

    name: str
    bus: JobBus


def settings_for(shared: Shared, overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings under what the options say."""
    from jobbus.settings import load_settings

    return load_settings(
        {
            "backend": shared.backend,
            "ledger": shared.ledger,
            "app": shared.app,
            **(overrides or {}),
        }
    )


@asynccontextmanager
async def bus_for(shared: Shared, *, create: bool, app: bool) -> AsyncIterator[JobBus]:
    """A bus on the backend that the options lead to, closed at the end.

    ``--backend`` comes first, then the bus of ``--app``, then the settings. An application that
    only the settings name is asked where nothing else says which backend it is, or with ``app``.
    """
    bus = _choose(shared, app)
    if not create:
        refuse_missing_file(bus.queue)
    try:
        # Every verb opens it by itself: what is refused before that leaves nothing behind.
        yield bus
    finally:
        await bus.close()


def _choose(shared: Shared, app: bool) -> JobBus:
    from jobbus.bus import JobBus

    if shared.app is not None:
        return load_application(shared).bus
    settings = settings_for(shared)
    unsaid = {"provider", "sqlite.path", "ledger"}.isdisjoint(settings.origins)
    if settings.app is not None and (app or (unsaid and shared.backend is None)):
        return load_application(shared).bus
    return JobBus(settings)


def refuse_missing_file(queue: BackgroundJobQueue) -> None:
    """Raise BackendUnavailable where the jobs are to be in a SQLite file that is not there."""
    store = _ledger_of(queue)
    place = getattr(store, "location", "")
    if type(store).__module__ == "jobbus.backends.sqlite" and not Path(str(place)).exists():
        raise BackendUnavailable(
            f"there is no SQLite file {place} (in {os.getcwd()}); enqueueing, a worker or "
            "`jobbus migrate up` makes it"
        )


def _ledger_of(queue: BackgroundJobQueue) -> Any:
    """What holds the jobs: the backend itself, or a broker's ledger."""
    return getattr(queue, "ledger", queue)


def describe(queue: BackgroundJobQueue) -> str:
    """The backend and its place, for people; without passwords."""
    ledger = _ledger_of(queue)
    if ledger is queue:
        return _described(ledger)
    return f"{_described(getattr(queue, 'broker', None))} with ledger {_described(ledger)}"


def place_of(queue: BackgroundJobQueue) -> str:
    """:func:`describe`, the same from wherever it is asked: files by their whole path."""
    ledger = _ledger_of(queue)
    named = describe(queue)
    if type(ledger).__module__ == "jobbus.backends.sqlite":
        named = named.removesuffix(ledger.location) + str(Path(ledger.location).resolve())
    return named


def _described(queue: Any) -> str:
    place = getattr(queue, "location", "")
    name = type(queue).__name__.removesuffix("Queue").lower()
    return f"{name} {place}".strip() if place != ":memory:" else name


def load_application(shared: Shared, given: str | None = None) -> Application:
    """The application that ``given``, ``--app``, the settings or the working directory names.

    Raises ConfigurationError when there is none, and when what there is cannot be used. With
    ``--backend``, its job types come on a bus of that backend.
    """
    settings = settings_for(shared)
    name = given or shared.app or settings.app or usual_application()
    if name is None:
        raise _nothing_named()
    bus = _load(name)
    module, _, attribute = name.partition(":")
    if shared.backend is not None or shared.ledger is not None:
        bus.use(settings)
    return Application(f"{module}:{attribute or _USUAL_NAME}", bus)


def _nothing_named() -> BadUsage:
    looked = " and ".join(f"./{module}.py" for module in USUAL_APPS)
    return BadUsage(
        "no application was found", why=f"none is named, and there is no {looked}", fix=_APP_FIX
    )


def usual_application() -> str | None:
    """What a worker that is started here would run, when nobody names an application."""
    found = (module for module in USUAL_APPS if Path(f"{module}.py").is_file())
    return next((f"{module}:{_USUAL_NAME}" for module in found), None)


def _load(name: str) -> JobBus:
    from jobbus.bus import JobBus

    module_name, mark, path = name.partition(":")
    module = _import(name, module_name)
    found: Any = module
    for step in (path if mark else _USUAL_NAME).split("."):
        if not hasattr(found, step):
            buses = [each for each, value in vars(module).items() if isinstance(value, JobBus)]
            raise BadUsage(
                f"the application {plain(name)} was not found",
                why=f"{module_name} has no attribute {step}",
                fix=f"--app {module_name}:{buses[0]}" if buses else _APP_FIX,
            )
        found = getattr(found, step)
    if not isinstance(found, JobBus):
        raise BadUsage(
            f"the application {plain(name)} is no JobBus",
            why=f"it is a {type(found).__name__}",
            fix="name the attribute that holds `JobBus(...)`",
        )
    return found


def _import(name: str, module_name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name.partition(".")[0] and error.name != module_name:
            raise _broken(name, error) from error
        here_too = sorted(each.stem for each in Path().glob("*.py"))
        raise BadUsage(
            f"the application {plain(name)} was not found",
            why=f"there is no module {error.name}, in {here} or among what is installed",
            fix=did_you_mean(module_name, here_too) or _APP_FIX,
        ) from error
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        raise _broken(name, error) from error


def _broken(name: str, error: BaseException) -> ConfigurationError:
    frames = [frame for frame in extract_tb(error.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "importlib" not in frame.filename]
    place = f"{own[-1].filename}, line {own[-1].lineno}" if own else "its import"
    if isinstance(error, SyntaxError) and error.filename:
        place = f"{error.filename}, line {error.lineno}"
    return ConfigurationError(
        f"the application {plain(name)} cannot be imported: {type(error).__name__} in {place}: "
        f"{error}"
    )
