"""Pages hang together: links lead somewhere, pages of one kind have one form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, anchor, headings, links, pages

DECISIONS = sorted((DOCS / "decisions").glob("[0-9]*.md"))
BACKEND_HEADINGS = [
    "Configure",
    "Delivery semantics",
    "Durability",
    "Limits",
    "Tuning",
    "Verified against",
]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} leads nowhere"
        if fragment and place.suffix == ".md":
            assert fragment in {anchor(one) for one in headings(place)}, (
                f"{target} has no such part"
            )


PROMISE = "at-least-once execution, effectively-once effects"


def test_the_readme_makes_the_promise_in_its_own_words() -> None:
    assert PROMISE in _words(ROOT / "README.md")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_promises_more(page: Path) -> None:
    assert not re.search(r"exactly[- ]once", _words(page))


def _words(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").lower().split())


def test_the_index_leads_to_every_page() -> None:
    reached = {(DOCS / target.partition("#")[0]).resolve() for target in links(DOCS / "README.md")}
    missing = {page for page in DOCS.rglob("*.md") if page not in DECISIONS} - reached
    assert missing <= {DOCS / "README.md"}


def test_the_index_of_decisions_has_every_decision_in_order() -> None:
    listed = [one for one in links(DOCS / "decisions/README.md") if one[0].isdigit()]
    assert listed == [page.name for page in DECISIONS]
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == sorted(set(numbers)), "a number is given once"


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_says_why_what_and_what_follows(page: Path) -> None:
    assert headings(page, 2) == ["Context", "Decision", "Consequences"]
    number = int(page.name[:4])
    assert headings(page, 1)[0].startswith(f"{number}. ")
    assert 15 <= len(page.read_text(encoding="utf-8").splitlines()) <= 30


@pytest.mark.parametrize(
    "page", sorted((DOCS / "backends").glob("*.md")), ids=lambda page: page.stem
)
def test_the_pages_of_backends_have_the_same_headings(page: Path) -> None:
    assert headings(page, 2) == BACKEND_HEADINGS
