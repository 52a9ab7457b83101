"""What the documentation prints works as it is printed."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path

import pytest

from jobbus.backends.postgres import PostgresQueue
from tests.docs.pages import Block, blocks, pages
from tests.docs.snippets import Program, all_of, environment, has_walk, run_program, walk

PROGRAMS = all_of(pages())
PYTHON = [block for page in pages() for block in blocks(page) if block.language == "python"]


def _named(one: Program) -> str:
    return one.block.name


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_python_in_the_documentation_is_python(block: Block) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST
    compile(block.text, block.name, "exec", flags=flags)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if not p.needs_postgres], ids=_named)
def test_a_program_does_what_is_printed_behind_it(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    run_program(program, folder, environment(folder))


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.needs_postgres], ids=_named)
def test_a_program_on_postgres_does_what_is_printed_behind_it(
    program: Program, tmp_path: Path, postgres_url: str
) -> None:
    asyncio.run(PostgresQueue(postgres_url).migrate())
    folder = tmp_path / "work"
    folder.mkdir()
    addresses = {"DATABASE_URL": postgres_url, "BACKGROUND_JOBS__POSTGRES__URL": postgres_url}
    run_program(program, folder, environment(folder, **addresses))


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in pages() if has_walk(page)], ids=lambda page: page.stem
)
def test_a_page_that_is_followed_step_by_step_leads_where_it_says(
    page: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    walk(page, folder, environment(folder))
