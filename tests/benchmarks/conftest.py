"""Runs for the tests of what is done with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgeseg.benchmarks.document import SCHEMA, Document, Line


@pytest.fixture(scope="session")
def make_run() -> Callable[..., dict[str, Any]]:
    """Return a run's document as JSON's types: skewed times about `median_ms`, and any field changed by name.

    A changed field may be a dotted path; None takes it away.
    """

    def make(median_ms: float = 10.0, *, count: int = 400, seed: int = 0, **changes: Any) -> dict[str, Any]:
        whole = (median_ms * np.random.default_rng(seed).lognormal(0, 0.1, count)).astype(np.float32)
        found = Document(
            schema=SCHEMA,
            scenario="single-stream",
            started="2026-01-01T00:00:00+00:00",
            bundle={"name": "yard", "manifest_sha256": "1" * 64},
            miou=70.5,
            precision="fp32",
            backend="ort",
            threads=1,
            input_size=(64, 96),
            source_size=(480, 640),
            timing_policy={"duration_s": 4, "source": "s", "warm_up": "w", "clock": "c", "generator": "g"},
            warm_up={"frames": 16, "seconds": 0.2, "steady": True},
            environment={"device": "A processor", "cores": 4, "packages": {"numpy": "2.0"}},
            surroundings={"before": {}, "after": {}, "own_cores": 1.0, "other_cores": 0.0},
            frames=count,
            fps=1000 / median_ms,
            inference_ms=Line.of("inference_ms", whole * np.float32(0.9)),
            whole_path_ms=Line.of("whole_path_ms", whole),
        ).document()
        for path, value in changes.items():
            *parents, last = path.split("__")
            place = found
            for parent in parents:
                place = place[parent]
            place[last] = value
        return found

    return make
