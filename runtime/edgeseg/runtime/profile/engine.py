"""Where an engine's own time goes: ONNX Runtime's operators by its profiler, TensorRT's layers by `IProfiler`."""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, cast

import numpy as np

from edgeseg.runtime.backends import Backend, read_confidence, run_until_steady
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.frame import Confidence, Image, Mask

MAX_INFERENCES = 300
"""As many are looked into, warm-up included: ONNX Runtime keeps about a kilobyte for each operator of each."""
_ENDING = "_kernel_time"


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """An operator or a layer in one inference."""

    name: str
    operator: str
    """Its type, where the engine tells one."""
    inference: int
    """Which one, from 0, those of the warm-up among them."""
    offset_ms: float
    """From the inference's beginning."""
    ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PartCost:
    """All inferences of one part."""

    name: str
    operator: str
    count: int
    median_ms: float
    total_ms: float
    share: float
    """Of all parts' time, 0 to 1."""

    def document(self) -> dict[str, Any]:
        """Return the fields as JSON's types."""
        return {
            "name": self.name,
            **({"operator": self.operator} if self.operator else {}),
            "count": self.count,
            "median_ms": round(self.median_ms, 4),
            "total_ms": round(self.total_ms, 3),
            "share": round(self.share, 5),
        }


class _ReportsLayers(Backend, Protocol):
    def report_layers(self, profiler: Any) -> None: ...


class Inside(Protocol):
    """An engine whose profiler is on."""

    kind: str
    """What the parts are: `operators` or `layers`."""
    backend: Backend

    def ran(self, inference: int) -> None:
        """Note that inference number `inference` ended."""

    def end(self) -> None:
        """Look no further. The backend can still be used."""

    def parts(self) -> list[Part]:
        """Return what was seen, once it has ended."""


class ProfiledBackend:
    """A `Backend` that looks into its first `MAX_INFERENCES` inferences. `close` ends looking, too."""

    def __init__(self, inside: Inside, shape: tuple[int, ...]) -> None:
        self._inside, self._shape = inside, shape
        self.name, self.precision, self.kind = inside.backend.name, inside.backend.precision, inside.kind
        self.began_ns: list[int] = []
        """When each inference that was looked into began."""
        self.warm_ups = 0
        """How many of them belong to the warm-up."""
        self._looking = True

    def infer(self, frame: Image) -> Mask:
        """Segment `frame`, as the engine itself does. Raises `BackendError`."""
        if not self._looking:
            return self._inside.backend.infer(frame)
        began_ns = time.monotonic_ns()
        mask = self._inside.backend.infer(frame)
        self._inside.ran(len(self.began_ns))
        self.began_ns.append(began_ns)
        if len(self.began_ns) == MAX_INFERENCES:
            self._end()
        return mask

    @property
    def confidence(self) -> Confidence | None:
        """Of the engine's latest inference."""
        return read_confidence(self._inside.backend)

    def warm_up(self) -> None:
        """Infer grey frames until the time is steady."""
        frame = np.full(self._shape, 127, np.uint8)
        run_until_steady(lambda: self.infer(frame))
        self.warm_ups = len(self.began_ns)

    def close(self) -> None:
        """End the profile and give the engine back; safe to call twice."""
        self._end()
        self._inside.backend.close()

    def _end(self) -> None:
        if self._looking:
            self._looking = False
            self._inside.end()

    def parts(self) -> list[Part]:
        """Return what the engine told of its inferences; nothing before it was closed."""
        return [] if self._looking else self._inside.parts()


class _OrtInside:
    kind = "operators"

    def __init__(self, bundle: Bundle, precision: str, threads: int | None) -> None:
        from edgeseg.runtime.backends.ort import OrtBackend

        self._folder = tempfile.TemporaryDirectory(prefix="edgeseg-profile-")
        prefix = str(Path(self._folder.name) / "ort")
        self._ort = OrtBackend(bundle, precision, threads, profile_prefix=prefix)
        self.backend: Backend = self._ort
        self._parts: list[Part] = []

    def ran(self, inference: int) -> None:
        pass

    def end(self) -> None:
        with self._folder:
            self._parts = read_operators(json.loads(Path(self._ort.end_profile()).read_bytes()))

    def parts(self) -> list[Part]:
        return self._parts


class _TensorRTInside:
    kind = "layers"

    def __init__(self, opened: _ReportsLayers) -> None:
        from edgeseg.runtime.engine.api import load_tensorrt

        self._parts: list[Part] = []
        self._inference: int | None = 0
        self._offset_ms = 0.0
        opened.report_layers(_make_profiler(load_tensorrt(), self._note))
        self.backend: Backend = opened

    def _note(self, layer: str, ms: float) -> None:
        if self._inference is not None:
            part = Part(name=layer, operator="", inference=self._inference, offset_ms=self._offset_ms, ms=ms)
            self._parts.append(part)
            self._offset_ms += ms

    def ran(self, inference: int) -> None:
        self._inference, self._offset_ms = inference + 1, 0.0

    def end(self) -> None:
        self._inference = None

    def parts(self) -> list[Part]:
        return self._parts


class _NothingInside:
    """An engine that tells nothing of its parts."""

    kind = "parts"

    def __init__(self, opened: Backend) -> None:
        self.backend = opened

    def ran(self, inference: int) -> None:
        pass

    def end(self) -> None:
        pass

    def parts(self) -> list[Part]:
        return []


def look_into(bundle: Bundle, opened: Backend, *, threads: int | None = None) -> ProfiledBackend:
    """Return `opened` with its profiler on, or the same engine opened again where that must be known beforehand.

    TensorRT runs each layer by itself then, so an inference takes longer; ONNX Runtime notes a line an operator.
    Raises `BackendError`.
    """
    if opened.name == "ort":
        opened.close()
        inside: Inside = _OrtInside(bundle, opened.precision, threads)
    elif opened.name == "tensorrt":
        inside = _TensorRTInside(cast(_ReportsLayers, opened))
    else:
        inside = _NothingInside(opened)
    return ProfiledBackend(inside, (1, *bundle.contract.size_hw, 3))


def read_operators(events: Sequence[dict[str, Any]]) -> list[Part]:
    """Return the operators in ONNX Runtime's profile, which lists each before the run that it belongs to."""
    found: list[Part] = []
    inference, waiting = 0, list[dict[str, Any]]()
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_ENDING):
            waiting.append(event)
        elif event["name"] == "model_run":
            found.extend(_read_run(waiting, inference, event["ts"]))
            waiting, inference = [], inference + 1
    return found


def _read_run(events: list[dict[str, Any]], inference: int, began_us: float) -> Iterator[Part]:
    for event in events:
        yield Part(
            name=event["name"].removesuffix(_ENDING),
            operator=event["args"]["op_name"],
            inference=inference,
            offset_ms=(event["ts"] - began_us) / 1e3,
            ms=event["dur"] / 1e3,
        )


def sum_parts(parts: Sequence[Part], *, skip: int = 0) -> list[PartCost]:
    """Return what each part took, inferences before number `skip` left out, the most expensive first."""
    times_ms: dict[tuple[str, str], list[float]] = defaultdict(list)
    for part in parts:
        if part.inference >= skip:
            times_ms[part.name, part.operator].append(part.ms)
    all_ms = sum(map(sum, times_ms.values())) or 1.0
    found = [
        PartCost(
            name=name,
            operator=operator,
            count=len(ms),
            median_ms=median(ms),
            total_ms=sum(ms),
            share=sum(ms) / all_ms,
        )
        for (name, operator), ms in times_ms.items()
    ]
    return sorted(found, key=lambda cost: cost.total_ms, reverse=True)


def _make_profiler(trt: Any, note: Callable[[str, float], None]) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Told by TensorRT once for each layer of each inference."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)  # the binding's own: super() does not reach it in every version

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            note(layer_name, ms)

    return Profiler()
