"""What a run must meet, and what is said when it did not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgeseg.runtime.objective import ObjectiveError, parse_objective, require
from edgeseg.runtime.sources.faults import Fault
from edgeseg.runtime.summary import RunSummary


def _figures(p50: float, p99: float) -> dict[str, float]:
    return {"p50": p50, "p90": p99, "p95": p99, "p99": p99, "max": p99}


RUN = RunSummary(
    frames=200,
    drops={"capture": 0, "inference": 50, "freeze": 0},
    fps=20.0,
    inference_ms=_figures(30, 40),
    frame_age_ms=_figures(33, 150),
    overhead_ms=_figures(3, 110),
    clock="driver",
)
STALLS = replace(
    RUN,
    faults=(Fault(kind="stall", frame=3, recovery_ms=2500.0), Fault(kind="stall", frame=9, recovery_ms=500.0)),
    fault_counts={"stall": 2},
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "age_p50=30ms",
            "age_p50=30ms: found 33 ms, missed by 3 ms; mostly inference: inference 30 ms, everything else 3 ms (p50), "
            "dropped: 50 at inference",
        ),
        (
            "age_p99<=100ms",
            "age_p99<=100ms: found 150 ms, missed by 50 ms; mostly what is not inference: inference 40 ms, everything "
            "else 110 ms (p99), dropped: 50 at inference",
        ),
        ("dropped<=5%", "dropped<=5%: found 20%, missed by 15%; mostly inference: "),
        ("fps>=25", "fps>=25: found 20, missed by 5; mostly inference: "),
    ],
)
def test_a_breach_says_by_how_much_and_why(text: str, said: str) -> None:
    breach = parse_objective(text).breach(RUN)
    assert breach is not None and breach.startswith(said)


def test_stalls_are_named_where_they_cost_the_rate() -> None:
    breach = parse_objective("fps>=25").breach(STALLS)
    assert breach == "fps>=25: found 20, missed by 5; faults of the source (2 stall) cost 3.0 of 10.0 s"


def test_the_worst_camera_is_named() -> None:
    slow = replace(RUN, camera="camera-2", fps=2.0, frame_age_ms=_figures(500, 900))
    run = replace(RUN, cameras=(replace(RUN, camera="camera-1"), slow))
    for text, worst in (("age_p50=30ms", "camera-2 with 500 ms"), ("fps>=25", "camera-2 with 2")):
        breach = parse_objective(text).breach(run)
        assert breach is not None and breach.endswith(f"dropped: 50 at inference, worst {worst}")


@pytest.mark.parametrize("text", ["age_p50=33ms", "age_max<=150ms", "fps>=20", "dropped<=20%"])
def test_what_is_just_met_is_met(text: str) -> None:
    assert parse_objective(text).breach(RUN) is None


def test_a_run_without_masks_meets_nothing() -> None:
    empty = replace(RUN, frames=0, drops={}, fps=None, inference_ms=None, frame_age_ms=None, overhead_ms=None)
    with pytest.raises(ObjectiveError, match=r"objective missed: age_p99=1ms: no frame got a mask \| fps>=1: no frame"):
        require((parse_objective("age_p99=1ms"), parse_objective("fps>=1")), empty)
