"""Parts of pages that follow from the code are what the code would write."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import generated
from tests.docs.pages import pages

PLACES = [
    (page, name, part)
    for page in pages()
    for name, part in generated.parts_of(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(
    ("page", "name", "part"), PLACES, ids=[f"{page.stem}-{name}" for page, name, _ in PLACES]
)
def test_a_generated_part_is_up_to_date(page: Path, name: str, part: str) -> None:
    assert part == generated.PARTS[name](), "python -m tests.docs.generated writes it anew"


def test_everything_that_can_be_generated_is_printed_somewhere() -> None:
    assert {name for _, name, _ in PLACES} == set(generated.PARTS)
