"""Type checkers let right uses of job types pass, and stop each wrong one where it stands."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TypeAlias

import pytest
from mypy import api

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MARK = re.compile(r"#\s*E: (?P<codes>[a-z, -]+)$")
FINDING = re.compile(r"^(?P<path>[^:]+):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$")

Errors: TypeAlias = Counter[tuple[str, int, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Errors:
    """What mypy has to say about both files, from one run."""
    # The project's own run passes over the wrong uses; here they must not be ignored.
    assert pytestconfig.cache is not None
    cache = pytestconfig.cache.mkdir("mypy")
    wrong = tmp_path_factory.mktemp("typing") / "wrong_use.py"
    wrong.write_text((HERE / "wrong_use.py").read_text().replace("# mypy: ignore-errors", "#"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        options = ["--strict", "--no-pretty", "--no-error-summary", f"--cache-dir={cache}"]
        files = [str(HERE / "right_use.py"), str(wrong)]
        output, problems, _ = api.run([*options, "--config-file=pyproject.toml", *files])
    assert not problems, problems
    findings = [match for line in output.splitlines() if (match := FINDING.match(line))]
    return Counter(
        (Path(each["path"]).name, int(each["line"]), each["code"])
        for each in findings
        if Path(each["path"]).name in {"right_use.py", "wrong_use.py"}
    )


def marked() -> Errors:
    return Counter(
        ("wrong_use.py", number, code)
        for number, line in enumerate((HERE / "wrong_use.py").read_text().splitlines(), start=1)
        if (mark := MARK.search(line))
        for code in mark["codes"].split(", ")
    )


@pytest.mark.timeout(300)
def test_right_uses_pass(found: Errors) -> None:
    assert [each for each in found if each[0] == "right_use.py"] == []


@pytest.mark.timeout(300)
def test_every_wrong_use_is_an_error_where_it_stands_and_nothing_else_is(found: Errors) -> None:
    expected = marked()
    assert len(expected) >= 12
    assert sorted((found - expected).elements()) == []
    assert sorted((expected - found).elements()) == []
