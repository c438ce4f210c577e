"""All graphs of the tables."""

from __future__ import annotations

# Each enters its graphs when it is imported.
from tests.export.check import zoo_joins, zoo_layout, zoo_pairs, zoo_tables, zoo_types
from tests.export.check.sketch import CASES, Case

__all__ = ["CASES", "Case", "zoo_joins", "zoo_layout", "zoo_pairs", "zoo_tables", "zoo_types"]
