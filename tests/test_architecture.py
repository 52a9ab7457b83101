"""The house as the design draws it: who imports whom, how large things are, what is banned."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = SOURCE / "jobbus"

LAYERS = [
    {"errors", "ids", "connections", "message", "job"},
    {"queue", "store", "context", "retry", "codec"},
    {"annotations", "validation", "signature", "options", "job_type", "handlers", "processor"},
    {"middleware", "services", "settings", "ledger"},
    {"bus", "sync", "worker"},
    {"cli", "demo", "testing", "__main__"},
]
"""From the ground up: a module imports its own layer and those below."""
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
SEAMS = {"errors", "ids", "connections", "message", "job", "queue", "store"}
"""What a backend may import of jobbus, besides its own package."""
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_MODULES = {"pickle", "marshal", "shelve", "yaml", "dill", "cloudpickle"}
IMPORTERS = {
    "__init__.py": "the table of public names",
    "cli/connecting.py": "the application that the configuration names",
    "cli/root.py": "the table of commands",
    "settings/backends.py": "the entry points of backends",
    "testing/__init__.py": "the table of public names",
    "worker/child.py": "the application, or the handler's own module, that the worker names",
    "worker/reference.py": "the application, or the handler's own module, that the worker names",
}
"""The files that import by a name, and whose names those are: never a message's."""
LONGEST_FILE = 450
LONGEST_FUNCTION = 60


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path, *, at_run_time: bool = False) -> Iterator[str]:
    """Dotted names within jobbus that the file imports, relative ones resolved."""
    package = ["jobbus", *path.relative_to(PACKAGE).parent.parts]
    module = tree(path)
    skipped = set(_only_for_types(module)) if at_run_time else set()
    for node in ast.walk(module):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *(node.module or "").split(".")]).strip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _only_for_types(module: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(module):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for statement in node.body:
                yield from ast.walk(statement)


def parts(path: Path) -> set[str]:
    """The top-level parts of jobbus that a file imports when it runs."""
    found = {
        name.split(".")[1] for name in imports(path, at_run_time=True) if name.startswith("jobbus.")
    }
    return found & (set(HEIGHT) | {"backends"})


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_has_its_place_in_the_house() -> None:
    known = set(HEIGHT) | {"backends", "__init__"}
    assert {part_of(path) for path in files()} <= known


@pytest.mark.parametrize("path", files(), ids=named)
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    if part not in HEIGHT:
        return
    upwards = {name for name in parts(path) & set(HEIGHT) if HEIGHT[name] > HEIGHT[part]}
    # The bus makes its settings, its backend and its worker-side halves when they are asked for.
    assert not upwards, f"{named(path)} imports {sorted(upwards)}, which stand above it"


@pytest.mark.parametrize("path", [p for p in files() if part_of(p) == "backends"], ids=named)
def test_a_backend_knows_the_seams_and_no_other_backend(path: Path) -> None:
    assert parts(path) <= SEAMS | {"backends"}
    others = {"memory", "sqlite", "postgres"} - {path.stem}
    used = [name.split(".") for name in imports(path) if name.startswith("jobbus.backends.")]
    assert not {name[2] for name in used} & others


@pytest.mark.parametrize("path", files(), ids=named)
def test_nothing_but_tests_imports_the_test_kit(path: Path) -> None:
    if part_of(path) != "testing":
        assert not any(name.startswith("jobbus.testing") for name in imports(path))


def test_only_backends_know_a_driver() -> None:
    drivers = {"psycopg", "psycopg_pool", "sqlite3"}
    for path in files():
        if part_of(path) in ("backends", "cli", "testing"):
            continue
        found = {name.split(".")[0] for name in imports(path, at_run_time=True)} & drivers
        assert not found, f"{named(path)} imports {found}"


@pytest.mark.parametrize("path", files(), ids=named)
def test_nothing_runs_what_a_message_says(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in BANNED_CALLS, f"line {node.lineno}"
    assert not {name.split(".")[0] for name in imports(path)} & BANNED_MODULES
    if "importlib.import_module" in set(imports(path)):
        assert named(path) in IMPORTERS


@pytest.mark.parametrize("path", files(), ids=named)
def test_a_file_tells_one_story_and_a_function_is_read_at_once(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST_FILE
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", files(), ids=named)
def test_every_file_says_its_story_first(path: Path) -> None:
    assert ast.get_docstring(tree(path)) or path.read_text(encoding="utf-8") == ""


def test_importing_jobbus_loads_no_library() -> None:
    heavy = ("pydantic", "sqlalchemy", "psycopg", "rich", "typer", "asyncio", "sqlite3")
    program = f"import sys, jobbus; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
