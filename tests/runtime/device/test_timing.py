"""What TensorRT's own clock and profiler say of an inference, over the simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.runtime.device.simulator import Simulator

from edgeseg.benchmarks.segment import Segmenter
from edgeseg.runtime.backends.tensorrt import TensorRTBackend
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.profile.engine import look_into, sum_parts


@pytest.mark.usefixtures("trt", "cache")
def test_backend_s_time_is_the_network_s_alone_by_events_on_the_stream(device_bundle: Bundle, sim: Simulator) -> None:
    backend = TensorRTBackend(device_bundle, "fp16")
    try:
        frames = [np.zeros((120, 160, 3), np.uint8)]
        segmenter = Segmenter(backend, device_bundle.contract, frames)
        before = len(sim.trace())
        times = segmenter.segment(0)[1]
        calls = [call for call in sim.trace()[before:] if call.startswith(("cuMemcpy", "cuEvent"))]
    finally:
        backend.close()
    assert times.backend_ms is not None
    assert 0 < times.backend_ms < times.inference_ms < times.whole_path_ms
    order = [call.removesuffix("_v2") for call in calls]
    assert order == [
        "cuMemcpyHtoDAsync",
        "cuEventRecord",
        "cuEventRecord",
        "cuMemcpyDtoHAsync",
        "cuEventRecord",
        "cuEventSynchronize",
        "cuEventElapsedTime",
    ]


@pytest.mark.usefixtures("trt", "cache")
def test_every_layer_of_every_inference_is_told(device_bundle: Bundle) -> None:
    backend = look_into(device_bundle, TensorRTBackend(device_bundle, "fp16"))
    frame = np.zeros((1, *device_bundle.contract.size_hw, 3), np.uint8)
    backend.warm_up()
    for _ in range(4):
        backend.infer(frame)
    backend.close()
    costs = sum_parts(backend.parts(), skip=backend.warm_ups)
    assert backend.kind == "layers"
    assert {cost.name: cost.count for cost in costs} == {"frame to planes": 4, "network": 4, "argmax": 4}
    # One after another within an inference, from its beginning.
    for inference in range(backend.warm_ups + 4):
        layers = [part for part in backend.parts() if part.inference == inference]
        ends_ms = 0.0
        for layer in layers:
            assert layer.offset_ms == pytest.approx(ends_ms)
            ends_ms += layer.ms


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Engines are kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
