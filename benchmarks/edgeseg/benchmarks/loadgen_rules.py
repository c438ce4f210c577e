"""By which of MLPerf's rules each scenario issues its queries; no LoadGen is needed to say so."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.benchmarks.document import Scenario

STREAMS = 8
"""Frames in a multi-stream query, by MLPerf's edge rules."""
PERCENTILE = {"single-stream": 90.0, "multi-stream": 99.0, "server": 99.0}
"""What MLPerf's rules judge latency by."""


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """How frames arrive in the server scenario: at random, as from many cameras that know nothing of each other."""

    rate: float = 10.0
    """Frames a second on average."""
    bound_ms: float = 100.0
    """What the percentile of their responses should not exceed."""


def describe_rules(scenario: Scenario, arrivals: Arrivals) -> str:
    """Say in words how `scenario` issues queries."""
    told = {
        "single-stream": "one frame a query, the next when it is done; edge percentile 90",
        "multi-stream": f"{STREAMS} frames a query, the next when all are done; edge percentile 99",
        "offline": "all frames in one query, segmented one after another",
        "server": f"one frame a query, Poisson arrivals, {arrivals.rate:g} a second, one after another; percentile 99 "
        f"within {arrivals.bound_ms:g} ms",
    }
    return f"MLPerf LoadGen: {told[scenario]}; duration by flag, no least number of queries"
