"""A measured run beside the least time that its device's published figures allow (`edgeseg predict`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgeseg.benchmarks.document import Document
from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.bundle import open_bundle


@dataclass(frozen=True, kw_only=True)
class Roof:
    """A run's median beside its bound, in milliseconds."""

    run: str
    device: str
    """As a person knows it."""
    line: str
    """The narrowest line that was timed: `backend_ms`, or `inference_ms` with its copies."""
    measured_ms: float
    bound_ms: float
    uncached_ms: float
    """The roofline as it is usually drawn, where every tensor crosses the memory bus."""
    limit: str

    @property
    def share(self) -> float:
        """The bound over the median: 1 is a device used to the full."""
        return self.bound_ms / self.measured_ms

    def told(self) -> str:
        """Say it in a line."""
        return (
            f"{self.line} {self.measured_ms:.3f} ms, no faster than {self.bound_ms:.3f} ms on {self.device} "
            f"(mostly {self.limit}; {self.uncached_ms:.3f} ms without caches): {self.share:.0%} of what it could do"
        )

    def document(self) -> dict[str, Any]:
        """Return the fields as JSON's types."""
        times = ("measured_ms", "bound_ms", "uncached_ms")
        return {
            **{name: getattr(self, name) for name in ("run", "device", "line", "limit")},
            **{name: round(getattr(self, name), 4) for name in times},
            "share": round(self.share, 4),
        }


def find_roof(name: str, run: Document, bundle_name: str, device_name: str) -> Roof:
    """Return the roof of `run`, called `name`, on a device of `edgeseg predict`'s.

    Raises `BenchmarkError` if the bundle is not the one that was measured, or its precision has no roofline.
    """
    from edgeseg.benchmarks.predict.devices import PRECISIONS, find_device
    from edgeseg.benchmarks.predict.graph import read_work
    from edgeseg.benchmarks.predict.roofline import bound_latency

    device = find_device(device_name)
    precision = next((known for known in PRECISIONS if known == run.precision), None)
    line = "backend_ms" if run.backend_ms is not None else "inference_ms"
    measured = run.lines.get(line)
    if precision is None or measured is None:
        lacks = f"ran in {run.precision}" if precision is None else "timed no inference"
        raise BenchmarkError(f"{name} {lacks}: it has no roofline", expected=" or ".join(PRECISIONS))
    with open_bundle(bundle_name) as bundle:
        if bundle.manifest_sha256 != run.bundle.manifest_sha256:
            raise BenchmarkError(
                f"bundle {bundle_name} is not what {name} measured", fix="name the bundle that was measured: --bundle"
            )
        bound = bound_latency(read_work(bundle.model_path(precision)), device, precision)
    return Roof(
        run=name,
        device=device.title,
        line=line,
        measured_ms=measured.p50,
        bound_ms=bound.bound_ms,
        uncached_ms=bound.uncached_ms,
        limit=bound.limit,
    )
