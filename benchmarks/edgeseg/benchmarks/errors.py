"""What the benchmarks raise on purpose."""

from __future__ import annotations

from edgeseg.runtime.errors import EdgesegError


class BenchmarkError(EdgesegError):
    """A measurement that cannot be made, read or compared."""
