"""The house keeps its shape: which part may know which, what nobody may do, how large it gets."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).parents[1] / "src"
LARGEST_FILE: Final = 450
LONGEST_FUNCTION: Final = 60

LAYERS: Final = (
    {"errors", "message", "job", "ids", "connections"},
    {"idempotency", "movable", "queue", "store"},
    {
        "annotations", "codec", "context", "handlers", "job_type", "middleware", "options",
        "processor", "requirements", "retry", "settings", "signature", "telemetry", "tracked",
        "validation",
    },
    {"bus", "keys", "ledger", "services", "sync", "worker"},
    {"__main__", "cli", "dashboard", "demo", "http", "integrations"},
)  # fmt: skip
"""Each may know itself and those before it. Settings name backends, and import none."""
APART: Final = {"", "backends", "testing"}
"""The package itself, a table of names; backends and testing, which have rules of their own."""
SEAMS: Final = LAYERS[0] | LAYERS[1]
SHARED_BY_BACKENDS: Final = {
    "jobbus.backends.amqp", "jobbus.backends.redis_store", "jobbus.backends.service_bus",
    "jobbus.backends.sql",
}  # fmt: skip
NAMES_MODULES: Final = {
    "jobbus": "a fixed table of the public names",
    "jobbus.testing": "a fixed table of names",
    "jobbus.cli.root": "a fixed table of commands",
    "jobbus.cli.connecting": "the application that the operator names",
    "jobbus.worker.reference": "where the worker's own handlers are defined",
}
"""Who may import a module by a name that is not in the source, and why that name is safe."""
FORBIDDEN_MODULES: Final = {
    "cloudpickle", "code", "dill", "joblib", "jsonpickle", "marshal", "pickle", "ruamel", "shelve",
    "yaml",
}  # fmt: skip
FORBIDDEN_CALLS: Final = {"eval", "exec", "compile", "__import__"}
HEAVY: Final = (
    "pydantic", "pydantic_settings", "sqlalchemy", "psycopg", "redis", "boto3", "aiormq",
    "azure", "rich", "typer",
)  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One module that another one names."""

    target: str
    line: int
    checking_only: bool
    """Under ``if TYPE_CHECKING``: never at run time."""
    deferred: bool
    """Inside a function: not when the module is loaded."""


@dataclass(frozen=True)
class Module:
    name: str
    path: Path
    tree: ast.Module
    lines: int

    @property
    def part(self) -> str:
        """The first name below ``jobbus``."""
        return f"{self.name}..".split(".")[1]

    def imports(self) -> Iterator[Import]:
        """Everything of jobbus's own and of others' that the module names."""
        checking = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            for part in node.body
            for inner in ast.walk(part)
        }
        deferred = {
            id(inner)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for inner in ast.walk(node)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                for target in self._targets(node):
                    yield Import(target, node.lineno, id(node) in checking, id(node) in deferred)

    def _targets(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            return
        base = node.module or ""
        if node.level:
            package = self.name.split(".")
            if self.path.name != "__init__.py":
                package.pop()
            base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            yield inner if inner in names() else base


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted((SOURCE / "jobbus").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
        found.append(Module(_name(path), path, tree, len(text.splitlines())))
    return tuple(found)


@cache
def names() -> frozenset[str]:
    return frozenset(_name(path) for path in (SOURCE / "jobbus").rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(target: str) -> str | None:
    """The part of jobbus that a module belongs to; None for other people's."""
    head, _, rest = f"{target}.".partition(".")
    return rest.split(".")[0] if head == "jobbus" else None


def layer_of(part: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if part in layer)


def told(module: Module, one: Import, why: str) -> str:
    return f"{module.path.relative_to(SOURCE)}:{one.line} imports {one.target}: {why}"


def test_every_part_has_its_place() -> None:
    """A new part is put into a layer, deliberately, or it fails here."""
    parts = {module.part for module in modules()}
    placed = set().union(*LAYERS) | APART
    assert parts <= placed, f"in no layer yet: {sorted(parts - placed)}"


def test_imports_point_one_way() -> None:
    """Also those for type checkers and those inside functions: a dependency is one all the same."""
    wrong = []
    for module in modules():
        if module.part in APART:
            continue
        for one in module.imports():
            part = part_of(one.target)
            if part is None or part in APART:
                continue
            if layer_of(part) > layer_of(module.part):
                wrong.append(told(module, one, "that is a layer above"))
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_in_a_circle_when_it_is_loaded() -> None:
    graph: dict[str, set[str]] = {}
    for module in modules():
        graph[module.name] = {
            one.target
            for one in module.imports()
            if one.target in names() and not one.checking_only and not one.deferred
        } - {module.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_backend_knows_the_seams_the_errors_and_what_backends_share_and_nothing_else() -> None:
    wrong = []
    for module in modules():
        if module.part != "backends":
            continue
        for one in module.imports():
            part = part_of(one.target)
            if part is None or part in SEAMS:
                continue
            if part == "settings" and one.checking_only:
                continue
            if part == "backends" and _is_shared(one.target, module):
                continue
            wrong.append(told(module, one, "backends know only the seams"))
    assert not wrong, "\n".join(wrong)


def _is_shared(target: str, module: Module) -> bool:
    own = ".".join(module.name.split(".")[:3])
    shared = SHARED_BY_BACKENDS | {own}
    return any(target == one or target.startswith(f"{one}.") for one in shared)


def test_only_tools_for_operators_know_a_backend_by_its_module() -> None:
    """The rest goes by the entry point that the settings name."""
    wrong = [
        told(module, one, "choose a backend by its name in the settings")
        for module in modules()
        if module.part not in ("backends", "cli", "testing")
        for one in module.imports()
        if part_of(one.target) == "backends"
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_outside_it_imports_testing() -> None:
    wrong = [
        told(module, one, "testing is for tests")
        for module in modules()
        if module.part != "testing"
        for one in module.imports()
        if part_of(one.target) == "testing"
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_ever_deserialised_into_code() -> None:
    """Payloads are JSON; types are looked up in a registry; exceptions come back as data."""
    wrong = []
    for module in modules():
        wrong += [
            told(module, one, "it can run what it reads")
            for one in module.imports()
            if one.target.split(".")[0] in FORBIDDEN_MODULES
        ]
        wrong += [
            f"{module.path.relative_to(SOURCE)}:{node.lineno} calls {node.func.id}()"
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in FORBIDDEN_CALLS
        ]
    assert not wrong, "\n".join(wrong)


def test_modules_are_imported_by_name_only_where_the_name_is_the_operators_or_our_own() -> None:
    importing = {
        module.name
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and _called(node) in ("import_module", "exec_module")
    }
    assert importing <= NAMES_MODULES.keys(), sorted(importing - NAMES_MODULES.keys())


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_module_begins_with_its_story_and_annotates_without_evaluating() -> None:
    for module in modules():
        story = ast.get_docstring(module.tree)
        assert story, f"{module.path} has no docstring"
        assert story.splitlines()[0].endswith((".", "?", ":")), f"{module.path}: {story!r}"
        if len(module.tree.body) > 1 and module.name != "jobbus.testing.conformance":
            assert any(one.target == "__future__" for one in module.imports()), module.path


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.name)
def test_no_file_and_no_function_grows_too_large_to_read(module: Module) -> None:
    assert module.lines <= LARGEST_FILE, f"{module.path} has {module.lines} lines"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{module.path}:{node.lineno} {node.name}: {length}"


def test_no_error_is_swallowed_without_a_word() -> None:
    """``except: pass`` hides what somebody will look for some night."""
    wrong = [
        f"{module.path.relative_to(SOURCE)}:{node.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and all(isinstance(step, ast.Pass) for step in node.body)
    ]
    assert not wrong, wrong


def loaded_by(statement: str) -> set[str]:
    """The modules in a fresh interpreter that ran this statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env={"PYTHONPATH": str(SOURCE)},
    )
    return set(output.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import jobbus", HEAVY),
        ("from jobbus import JobBus, Worker; bus = JobBus('memory://')", HEAVY),
        ("import jobbus.cli", ("pydantic", "sqlalchemy", "psycopg")),
        ("import jobbus.worker.child", ("sqlalchemy", "psycopg", "rich", "typer")),
    ],
)
def test_importing_loads_nothing_heavy(statement: str, heavy: tuple[str, ...]) -> None:
    loaded = loaded_by(statement)
    assert "jobbus" in loaded
    assert not [name for name in heavy if name in loaded]


def test_the_rules_notice_what_breaks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that cannot fail proves nothing."""
    broken = """
        import pickle
        from ..testing import VirtualClock
        from jobbus.backends.sqlite import SqliteQueue
        from . import postgres
        def load(name):
            from jobbus.cli import main
            try:
                return eval(name)
            except Exception:
                pass
    """
    lines = [line.removeprefix("        ") for line in broken.splitlines()]
    planted = Module(
        "jobbus.backends.planted",
        SOURCE / "jobbus" / "backends" / "planted.py",
        ast.parse("\n".join(lines)),
        LARGEST_FILE + 1,
    )
    monkeypatch.setattr(sys.modules[__name__], "modules", lambda: (planted,))
    low = Module("jobbus.retry", planted.path, planted.tree, 1)
    for rule in (
        test_a_backend_knows_the_seams_the_errors_and_what_backends_share_and_nothing_else,
        test_nothing_outside_it_imports_testing,
        test_nothing_is_ever_deserialised_into_code,
        test_no_error_is_swallowed_without_a_word,
        lambda: test_no_file_and_no_function_grows_too_large_to_read(planted),
    ):
        with pytest.raises(AssertionError):
            rule()
    monkeypatch.setattr(sys.modules[__name__], "modules", lambda: (low,))
    for upward in (
        test_imports_point_one_way,
        test_only_tools_for_operators_know_a_backend_by_its_module,
    ):
        with pytest.raises(AssertionError):
            upward()
