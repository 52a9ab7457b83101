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
    from jobbus.handlers import Handlers, JobType

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


def reference_for(job_type: JobType[..., Any], app: str | None = None) -> HandlerReference:
    """Where a handler's process will find ``job_type`` again.

    With ``app``, in that application's registry; else under the handler's own name, or that of a
    registry or variable beside it. Raises ConfigurationError for what could not be found: a
    lambda, a function inside another, a name that by now means something else, a script without a
    file.
    """
    function = job_type.function
    module, qualname = function.__module__, function.__qualname__
    if app is None:
        why = _not_at(module, qualname, job_type)
        if why:
            app, qualname = _beside(module, job_type)
            if app is None and not qualname:
                raise _unfindable(job_type.name, why)
    main_path = None
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


def _not_at(module: str, qualname: str, job_type: JobType[..., Any]) -> str:
    """Why the job type is not found under this name; empty if it is."""
    if "<lambda>" in qualname:
        return "its function is a lambda"
    if "<locals>" in qualname:
        return f"{qualname} is defined inside another function"
    found = _follow(sys.modules.get(module), qualname)
    if found is None:
        return f"the module {module} has no {qualname}"
    if found is not job_type and getattr(found, "function", found) is not job_type.function:
        return f"{module}:{qualname} is something else by now"
    return ""


def _beside(module: str, job_type: JobType[..., Any]) -> tuple[str | None, str]:
    """A registry that holds the job type, as ``app``, or the name of a variable that is it."""
    for name, value in list(vars(sys.modules.get(module, ModuleType(module))).items()):
        if value is job_type:
            return None, name
        registry = _registry(value)
        if registry is not None and registry.get(job_type.name) is job_type:
            return f"{module}:{name}", name
    return None, ""


def _registry(holder: object) -> Handlers | None:
    from jobbus.handlers import Handlers

    if isinstance(holder, Handlers):
        return holder
    # Only a JobBus is asked for its handlers: other objects may do anything at such a question.
    kinds = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(holder).__mro__)
    if "jobbus.bus.JobBus" not in kinds:
        return None
    handlers = getattr(holder, "handlers", None)
    return handlers if isinstance(handlers, Handlers) else None


def _main_module(name: str) -> tuple[str, str | None]:
    """The true name of ``__main__``, or the alias and the file to load under it."""
    main = sys.modules[_MAIN]
    spec = getattr(main, "__spec__", None)
    if spec is not None and not spec.name.endswith(f".{_MAIN}"):
        return str(spec.name), None
    path = getattr(main, "__file__", None)
    if spec is not None or path is None or not os.path.exists(path):
        where = "at a prompt" if spec is None else f"in {path}, which is no module to import"
        raise _unfindable(name, f"it is defined {where}")
    return MAIN_ALIAS, os.path.abspath(path)


def _unfindable(name: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f'the job type {name} has isolation="process", but another process cannot find its handler '
        f"by name: {why}. Define it at the top level of a module, or start the worker with the "
        "name of the application that registers it, or choose another isolation"
    )


def _follow(start: object, path: str) -> Any:
    for name in path.split("."):
        start = getattr(start, name, None)
    return start


class Resolver:
    """Finds handlers in this process, each of them once."""

    def __init__(self) -> None:
        self._found: dict[HandlerReference, JobType[..., Any]] = {}

    def find(self, reference: HandlerReference) -> JobType[..., Any]:
        """Raises what the import of the code raises, and ConfigurationError for unknown names."""
        if reference not in self._found:
            sys.path[:] = reference.sys_path
            self._found[reference] = (
                _in_module(reference)
                if reference.app is None
                else _in_app(reference, reference.app)
            )
        return self._found[reference]


def _in_app(reference: HandlerReference, app: str) -> JobType[..., Any]:
    name, _, attribute = app.partition(":")
    module = _module(reference) if name == _MAIN else importlib.import_module(name)
    registry = _registry(_follow(module, attribute))
    if registry is None:
        raise ConfigurationError(f"{app} is no JobBus and no Handlers")
    found = registry.get(reference.job_type_name)
    if found is None:
        # Registered, then, by a module that the application itself does not import.
        _module(reference)
        found = registry.get(reference.job_type_name)
    if found is None:
        raise ConfigurationError(f"{app} has no job type {reference.job_type_name} in this process")
    return found


def _in_module(reference: HandlerReference) -> JobType[..., Any]:
    from jobbus.handlers import JobType, make_job_type

    found = _follow(_module(reference), reference.qualname)
    if isinstance(found, JobType):
        return found
    if not callable(found):
        raise ConfigurationError(
            f"{reference.module}:{reference.qualname} is no handler in this process"
        )
    return make_job_type(found, name=reference.job_type_name, isolation="process")


def _module(reference: HandlerReference) -> ModuleType:
    if reference.main_path is not None:
        return _load_main(reference.main_path)
    return importlib.import_module(reference.module)


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
