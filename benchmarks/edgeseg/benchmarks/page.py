"""Writes a report's page."""

from __future__ import annotations

from pathlib import Path

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.files import write_bytes


def write_page(path: Path, page: str) -> None:
    """Write `page`, whole or not at all. Raises `BenchmarkError` where it cannot be written."""
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise BenchmarkError(
            f"cannot write {path}: {error.strerror}", fix="give --html a file in a folder that can be written"
        ) from error
