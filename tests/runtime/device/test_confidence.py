"""The second output through TensorRT on the simulated GPU, by every library and way of launching."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.runtime.backends import open_backend, read_confidence
from edgeseg.runtime.backends.options import BackendOptions
from edgeseg.runtime.bundle import open_bundle


@pytest.mark.usefixtures("trt", "cache")
@pytest.mark.parametrize("options", [{}, {"zero_copy": True}, {"graph": True}], ids=["copies", "zero-copy", "graph"])
def test_the_gpu_tells_what_the_cpu_tells(sure_bundle: Path, options: dict[str, Any]) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    with open_bundle(sure_bundle) as bundle:
        cpu = open_backend(bundle, backend="ort", precision="fp32", threads=1)
        gpu = open_backend(bundle, backend="tensorrt", precision="fp32", options=BackendOptions(**options))
        assert np.array_equal(cpu.infer(frame), gpu.infer(frame))
        expected, found = read_confidence(cpu), read_confidence(gpu)
        assert expected is not None and found is not None
        assert np.array_equal(found, expected) and found.any()
        gpu.close()
