"""The one error that the agent raises on purpose."""

from __future__ import annotations


class AgentError(Exception):
    """A problem that its reader can mend. `str()` is one line: what was found, what was expected, how to fix it."""

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        parts = [found, f"expected {expected}" if expected else "", f"fix: {fix}" if fix else ""]
        super().__init__(" ".join("; ".join(part for part in parts if part).split()))
