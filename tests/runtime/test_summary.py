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
from edgeseg.runtime.histogram import PERCENTILES, LogHistogram
from edgeseg.runtime.sources.faults import Fault
from edgeseg.runtime.summary import CameraRecorder, RunRecorder, Told

IMAGE = np.zeros((4, 6, 3), np.uint8)


def _recorder(contract: Contract) -> CameraRecorder:
    return CameraRecorder(contract, lambda: Told(drops={"inference": 3}))


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


@given(*[st.lists(st.floats(LogHistogram.LEAST, LogHistogram.MOST), max_size=50)] * 2)
def test_merging_is_counting_both(first: list[float], second: list[float]) -> None:
    histograms = [LogHistogram(), LogHistogram(), LogHistogram()]
    for histogram, values in zip(histograms, (first, second, first + second), strict=True):
        for value in values:
            histogram.add(value)
    assert histograms[0].merge(histograms[1]).document() == histograms[2].document()


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


def _run_of_two(contract: Contract) -> RunRecorder:
    """A camera of 4 frames at 25 fps that lost one, and one of 2 frames with other faults."""
    first = CameraRecorder(
        contract,
        lambda: Told(clock="driver", drops={"inference": 1}, fault_counts={"stall": 2}, faults=(_STALL,)),
        name="camera-1",
        source="0",
    )
    second = CameraRecorder(
        contract,
        lambda: Told(clock="arrival", drops={"inference": 0}, fault_counts={"stall": 1, "freeze": 1}, error="it broke"),
        name="camera-2",
        source="rtsp://***@door/",
    )
    for recorder, count, age_ms in ((first, 4, 10.0), (second, 2, 50.0)):
        for index in range(count):
            result = _result(index, captured_ms=1000 + 40 * index, age_ms=age_ms, inference_ms=5)
            recorder.captured(result.frame)
            recorder.masked(result)
            recorder.watched(result)
    return RunRecorder([first, second])


_STALL = Fault(kind="stall", frame=3, recovery_ms=2100.0)


def test_a_run_adds_its_cameras_up_and_tells_each(tiny_contract: Contract) -> None:
    document = _run_of_two(tiny_contract).summary().document()
    assert (document["frames"], document["drops"], document["clock"]) == (
        6,
        {"capture": 0, "inference": 1},
        "arrival, driver",
    )
    assert document["fault_counts"] == {"stall": 3, "freeze": 1}
    assert document["frame_age_ms"]["p50"] == pytest.approx(10, rel=0.01) and document["frame_age_ms"]["max"] == 50
    assert document["fps"] == pytest.approx(6 / 0.13, rel=0.01)
    assert not {"health", "camera", "source", "error"} & set(document), "those are of one camera"
    first, second = document["cameras"]
    assert (first["camera"], first["source"], first["frames"]) == ("camera-1", "0", 4)
    assert first["faults"] == [_STALL.document()] and second["faults"] == []
    assert (second["error"], second["frame_age_ms"]["p50"]) == ("it broke", pytest.approx(50, rel=0.01))
    assert first["health"]["changed"] == 0 and "cameras" not in first


def test_the_run_of_one_camera_is_that_camera(tiny_contract: Contract) -> None:
    recorder = _recorder(tiny_contract)
    recorder.watched(_result(0, captured_ms=0, age_ms=1, inference_ms=1))
    document = RunRecorder([recorder]).summary().document()
    (camera,) = document.pop("cameras")
    assert camera.pop("camera") == "camera-1" and camera == document


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
    recorder.watched(result)
    document = recorder.summary().document()
    assert document["per_class_iou"] == {"road": 50.0, "tree": 0.0}
    assert document["miou"] == 25.0
    assert all(math.isfinite(value) for value in json.loads(json.dumps(document))["frame_age_ms"].values())


def test_truth_of_other_classes_is_not_scored(tiny_contract: Contract) -> None:
    contract = tiny_contract.model_copy(update={"classes": ("a", "b"), "palette": tiny_contract.palette[:2]})
    recorder = _recorder(contract)
    truth = np.full((4, 6), 7, np.uint8)
    recorder.watched(_result(0, captured_ms=0, age_ms=1, inference_ms=1, truth=truth))
    assert recorder.summary().confusion is None
