from __future__ import annotations

from pathlib import Path

import pytest
from tests.export.check.zoo import CASES

from edgeseg.export.check.findings import RULES

_PAGE = (Path(__file__).parents[3] / "docs" / "qdq-rules.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", RULES)
def test_page_has_the_rule_as_the_table_does(rule: str) -> None:
    row = next(line for line in _PAGE.splitlines() if line.startswith(f"|`{rule}`|"))
    entry = RULES[rule]
    assert row[len(rule) + 4 :].lower() == f"{entry.mend}|{entry.source}|".lower()


def test_page_counts_the_graphs() -> None:
    assert f"{len(CASES)} small graphs" in _PAGE
