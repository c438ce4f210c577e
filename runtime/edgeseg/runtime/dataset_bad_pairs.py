"""What training and scoring do about pairs that cannot be read: pass over a few, by name, and refuse too many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgeseg.runtime.errors import DatasetError, UnreadablePairError


class BadPairs:
    """Counts the pairs that `Dataset.read_pair` could not read, each once however many epochs meet it."""

    LIMIT_PERCENT = 1

    def __init__(self, total: int, *, report: Callable[[str], object] = lambda line: None) -> None:
        """`total` is the number of different pairs that are read; `report` gets one line for each bad one."""
        self._total, self._report = total, report
        self._found: dict[str, str] = {}

    def __len__(self) -> int:
        """Number of bad pairs met so far."""
        return len(self._found)

    def add(self, error: UnreadablePairError) -> None:
        """Count a bad pair. Raises `DatasetError` when more than `LIMIT_PERCENT` of all pairs are bad."""
        if error.found in self._found:
            return
        self._found[error.found] = str(error)
        if 100 * len(self) > self.LIMIT_PERCENT * self._total:
            raise DatasetError(
                f"{len(self)} of {self._total} pairs cannot be read, the last: {error.found}",
                expected=f"at most {self.LIMIT_PERCENT} % bad ones to pass over",
                fix="see all of them with `edgeseg data check`, mend or remove them, and start again",
            )
        self._report(f"passed over {len(self)} of {self._total}: {error}")

    def document(self) -> dict[str, Any]:
        """Return `{"unreadable": [what was found, ...]}` for JSON, and nothing if every pair was read."""
        return {"unreadable": list(self._found)} if self._found else {}
