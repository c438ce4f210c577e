"""The golden frames of a bundle, through the backend that would run it here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import Bundle


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Share of a golden frame's pixels that come out as they must, 0 to 1, and the share that the manifest requires."""

    precision: str
    frame: str
    agreement: float
    required: float

    @property
    def holds(self) -> bool:
        return self.agreement >= self.required

    def __str__(self) -> str:
        return f"golden frame {self.frame} in {self.precision}: {self.agreement:.2%} of the pixels agree"


def check_golden(bundle: Bundle) -> list[Agreement]:
    """Run every golden frame in every precision of `bundle` for which the manifest requires an agreement.

    Raises `BackendError` if ONNX Runtime is missing or refuses a graph.
    """
    found = []
    frames = bundle.golden_frames()
    for precision, required in bundle.manifest.golden.agreement.items():
        backend = open_backend(bundle, backend="ort", precision=precision)
        try:
            for name, frame, mask in frames:
                share = float(np.mean(backend.infer(np.ascontiguousarray(frame[None]))[0] == mask))
                found.append(Agreement(precision=precision, frame=name, agreement=share, required=required))
        finally:
            backend.close()
    return found
