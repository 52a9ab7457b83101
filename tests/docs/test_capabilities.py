"""The table of capabilities is the one that the backends declare."""

from __future__ import annotations

from dataclasses import fields

import pytest

from jobbus.message import Capabilities
from tests.docs import generated
from tests.docs.pages import DOCS, ROOT, plain, table


@pytest.mark.parametrize("page", ["README.md", "docs/reference/capabilities.md"])
def test_the_printed_table_is_the_declared_one(page: str) -> None:
    parts = dict(generated.parts_of((ROOT / page).read_text(encoding="utf-8")))
    assert parts["capabilities"] == generated.capabilities()


def test_the_reference_has_every_capability_and_every_backend() -> None:
    rows = table(DOCS / "reference/capabilities.md", "What each backend declares")
    assert [plain(row[0]) for row in rows] == [each.name for each in fields(Capabilities)]
    assert all(len(row) == 2 + len(generated.declared()) for row in rows)
