"""The figures of a run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Mask, Result
from edgeseg.runtime.summary import PERCENTILES, LogHistogram, RunRecorder

IMAGE = np.zeros((4, 6, 3), np.uint8)


def _recorder(contract: Contract) -> RunRecorder:
    return RunRecorder(contract, clock=lambda: "arrival", drops=lambda: {"capture": 1, "inference": 2})


def _result(index: int, *, captured_ms: float, age_ms: float, inference_ms: float, truth: Mask | None = None) -> Result:
    captured_ns = round(captured_ms * 1e6)
    frame = Frame(image_bgr=IMAGE, id=index, captured_ns=captured_ns, name="f", truth=truth)
    mask = np.full((4, 6), 3, np.uint8)
    return Result(frame=frame, mask=mask, inference_ms=inference_ms, masked_ns=captured_ns + round(age_ms * 1e6))


@given(st.lists(st.floats(LogHistogram.LEAST, LogHistogram.MOST), min_size=1, max_size=300))
def test_percentiles_are_within_one_percent_of_the_exact_ones(values: list[float]) -> None:
    histogram = LogHistogram()
    for value in values:
        histogram.add(value)
    for percent in PERCENTILES:
        exact = float(np.percentile(values, percent, method="inverted_cdf"))
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.max == max(values)


def test_values_out_of_range_are_counted_at_its_ends_and_the_maximum_stays_exact() -> None:
    histogram = LogHistogram()
    for value in (-5.0, 0.0, 1e9):
        histogram.add(value)
    assert histogram.percentile(50) == LogHistogram.LEAST
    assert histogram.percentile(99) == pytest.approx(LogHistogram.MOST, rel=0.01)
    assert histogram.max == 1e9


def test_no_percentile_exceeds_the_maximum() -> None:
    histogram = LogHistogram()
    histogram.add(7.77)
    figures = histogram.document()
    assert figures is not None and max(figures.values()) == figures["max"] == 7.77


def test_empty_histogram_has_no_figures() -> None:
    assert LogHistogram().document() is None
    with pytest.raises(ValueError, match="no values"):
        LogHistogram().percentile(50)


def test_rate_runs_from_first_capture_to_last_mask(tiny_contract: Contract) -> None:
    recorder = _recorder(tiny_contract)
    for index in range(5):
        result = _result(index, captured_ms=100 + 40 * index, age_ms=40, inference_ms=15)
        recorder.captured(result.frame)
        recorder.masked(result)
    summary = recorder.summary()
    assert summary.fps == pytest.approx(5 / 0.2)
    assert summary.dropped == 3


def test_overhead_is_age_less_inference(tiny_contract: Contract) -> None:
    recorder = _recorder(tiny_contract)
    for index, (age_ms, inference_ms) in enumerate([(20, 10), (100, 99), (30, 28)]):
        recorder.masked(_result(index, captured_ms=0, age_ms=age_ms, inference_ms=inference_ms))
    overhead_ms = recorder.summary().overhead_ms
    assert overhead_ms is not None
    assert overhead_ms["p50"] == pytest.approx(2, rel=0.01) and overhead_ms["max"] == 10


def test_gaps_in_ids_are_skipped_frames(tiny_contract: Contract) -> None:
    recorder = _recorder(tiny_contract)
    for index in (0, 1, 4, 9):
        recorder.captured(_result(index, captured_ms=0, age_ms=1, inference_ms=1).frame)
    assert recorder.skipped == 2 + 4


def test_document_of_a_run_without_frames_leaves_figures_out(tiny_contract: Contract) -> None:
    document = _recorder(tiny_contract).summary().document()
    assert document["frames"] == 0 and document["faults"] == []
    assert not {"fps", "inference_ms", "frame_age_ms", "overhead_ms", "miou"} & set(document)


def test_truth_is_scored(tiny_contract: Contract) -> None:
    recorder = _recorder(tiny_contract)
    truth = np.full((4, 6), 3, np.uint8)
    truth[:2] = 5
    result = _result(0, captured_ms=0, age_ms=1, inference_ms=1, truth=truth)
    recorder.masked(result)
    recorder.scored(result)
    document = recorder.summary().document()
    assert document["per_class_iou"] == {"road": 50.0, "tree": 0.0}
    assert document["miou"] == 25.0
    assert all(math.isfinite(value) for value in json.loads(json.dumps(document))["frame_age_ms"].values())


def test_truth_of_other_classes_is_not_scored(tiny_contract: Contract) -> None:
    contract = tiny_contract.model_copy(update={"classes": ("a", "b"), "palette": tiny_contract.palette[:2]})
    recorder = _recorder(contract)
    truth = np.full((4, 6), 7, np.uint8)
    recorder.scored(_result(0, captured_ms=0, age_ms=1, inference_ms=1, truth=truth))
    assert recorder.summary().confusion is None
