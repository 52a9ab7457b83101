"""How a handler's process finds the handler that its worker means: by name, in the same code."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from jobbus.errors import ConfigurationError
from jobbus.worker.wire import MAIN_ALIAS

if TYPE_CHECKING:
    from jobbus.handlers import JobType

_MAIN: Final = "__main__"


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerReference:
    """Where a handler is found, in a form that travels."""

    job_type_name: str
    app: str | None
    """``module:attribute`` of the application whose registry knows the job type."""
    module: str
    qualname: str
    main_path: str | None
    """The script that the worker was started as, when the handler is in it."""
    sys_path: tuple[str, ...]

    def to_fields(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_fields(cls, said: Mapping[str, Any]) -> HandlerReference:
        return cls(**{**said, "sys_path": tuple(said["sys_path"])})


def reference_for(job_type: JobType, app: str | None = None) -> HandlerReference:
    """Where a handler's process will find ``job_type`` again.

    Raises ConfigurationError for what it could not find: a lambda, a function defined inside
    another, a name that by now means something else, a script without a file.
    """
    function = job_type.function
    module, qualname = function.__module__, function.__qualname__
    main_path = None
    if app is None:
        _refuse_nameless(job_type.name, module, qualname)
        found = _follow(sys.modules[module], qualname)
        if found is not job_type and getattr(found, "function", found) is not function:
            raise _unfindable(job_type.name, f"{module}:{qualname} is something else by now")
        if module == _MAIN:
            module, main_path = _main_module(job_type.name)
    return HandlerReference(
        job_type_name=job_type.name,
        app=app,
        module=module,
        qualname=qualname,
        main_path=main_path,
        sys_path=tuple(os.path.abspath(one) for one in sys.path),
    )


def _refuse_nameless(name: str, module: str, qualname: str) -> None:
    if "<lambda>" in qualname:
        raise _unfindable(name, "its function is a lambda")
    if "<locals>" in qualname:
        raise _unfindable(name, f"{qualname} is defined inside another function")
    if module not in sys.modules or _follow(sys.modules[module], qualname) is None:
        raise _unfindable(name, f"the module {module} has no {qualname}")


def _main_module(name: str) -> tuple[str, str | None]:
    """The true name of ``__main__``, or the alias and the file to load under it."""
    main = sys.modules[_MAIN]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name), None
    path = getattr(main, "__file__", None)
    if path is None or not os.path.exists(path):
        raise _unfindable(name, "it was defined at a prompt, not in a file")
    return MAIN_ALIAS, os.path.abspath(path)


def _unfindable(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f'the job type {name} has isolation="process", but another process cannot find its handler '
        f"by name: {why}. Define the handler at the top level of a module, or choose another "
        "isolation"
    )


def _follow(start: object, path: str) -> Any:
    for name in path.split("."):
        start = getattr(start, name, None)
    return start


class Resolver:
    """Finds handlers in this process, each of them once."""

    def __init__(self) -> None:
        self._found: dict[HandlerReference, JobType] = {}

    def find(self, reference: HandlerReference) -> JobType:
        """Raises what the import of the code raises, and ConfigurationError for unknown names."""
        if reference not in self._found:
            sys.path[:] = reference.sys_path
            self._found[reference] = _resolve(reference)
        return self._found[reference]


def _resolve(reference: HandlerReference) -> JobType:
    if reference.main_path is not None:
        module = _load_main(reference.main_path)
    else:
        module = importlib.import_module(reference.module)
    return _follow(module, reference.qualname)


def _load_main(path: str) -> ModuleType:
    """The script under an alias, so that what it guards with ``__name__`` does not run."""
    if MAIN_ALIAS in sys.modules:
        return sys.modules[MAIN_ALIAS]
    spec = importlib.util.spec_from_file_location(MAIN_ALIAS, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"the script {path} cannot be loaded as a module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MAIN_ALIAS] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[MAIN_ALIAS]
        raise
    return module
