"""`edgeseg check --explain`: every precision beside fp32, step by step, and the first step that goes its own way.

Each step of a precision's graph is run twice. Once on what fp32 gives it, so that it answers for itself alone: what
it loses there beyond its tolerance is its own fault, whatever came before. And once on what its own graph gives it:
how noise adds up on the way. The INT8 graphs are computed as written, in float.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from edgeseg.export.check.measure import EXACT_DB, TOLERANCES, Array, Noise, Tolerance, best_grid_db
from edgeseg.export.check.stages import Stage, Wires, find_stages, is_float, read_wires
from edgeseg.runtime.backends.ort import open_session
from edgeseg.runtime.bundle import Bundle
from edgeseg.runtime.frame import Image

REFERENCE = "fp32"
_MIN_EQUAL = 0.98
"""Share of whole numbers that a step must give as fp32 does, on the same inputs: class indices exactly, levels such as
those of the confidence to one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One step of one precision. Decibels are capped at `EXACT_DB`; shares are 0 to 1; None is what does not apply."""

    precision: str
    stage: str
    """The tensor of the reference."""
    tensor: str
    """The tensor of this precision's graph."""
    op: str
    sqnr_db: float | None
    """On inputs of the same graph: the noise of all steps up to here."""
    step_db: float | None
    """On the reference's inputs: the noise of this step alone."""
    tolerance_db: float | None
    """What `step_db` must reach."""
    max_error: float | None
    """The greatest difference, noise of all steps up to here."""
    agreement: float | None
    """Share of whole numbers that are fp32's, noise of all steps up to here."""
    unexpected: bool
    cause: str | None = None
    """What of the step is to blame, as far as that can be told."""


class _Step:
    """A stage ready to run on its own, and what it was measured to lose."""

    def __init__(self, stage: Stage, wires: Wires, precision: str) -> None:
        self.stage, self._precision = stage, precision
        self._types = {name: helper.tensor_dtype_to_np_dtype(wires.types[name]) for name, _ in stage.feeds}
        names = [name for name, _ in stage.feeds]
        self._session = open_session(wires.cut(stage.nodes, names, [stage.tensor]), as_written=True, threads=1)
        self._is_float = is_float(wires.types[stage.tensor]) and stage.tensor not in wires.decided
        self._slack = 0 if stage.tensor in wires.decided else 1
        self._alone, self._along = Noise(), Noise()
        self._best = EXACT_DB
        self._equal_alone: list[float] = []
        self._equal_along: list[float] = []

    def measure(self, reference: Mapping[str, Array], own: Mapping[str, Array]) -> None:
        """Add one frame: the tensors of the reference, and of the precision's own run."""
        feeds = {name: reference[other].astype(self._types[name], copy=False) for name, other in self.stage.feeds}
        (alone,) = self._session.run([self.stage.tensor], feeds)
        expected, along = reference[self.stage.reference], own[self.stage.tensor]
        if not self._is_float:
            self._equal_alone.append(self._share_equal(alone, expected))
            self._equal_along.append(self._share_equal(along, expected))
            return
        expected = expected.astype(np.float32, copy=False)
        self._alone.add(expected, alone)
        self._along.add(expected, along)
        if self._is_pair:
            # TensorRT's grids are symmetric.
            self._best = min(self._best, best_grid_db(expected, symmetric=self._precision == "int8"))

    def _share_equal(self, found: Array, expected: Array) -> float:
        return float(np.mean(np.abs(found.astype(np.int64) - expected.astype(np.int64)) <= self._slack))

    @property
    def _is_pair(self) -> bool:
        return self.stage.kind == "carry" and "DequantizeLinear" in self.stage.op and not self.stage.joined

    def row(self, wires: Wires, reference: Wires) -> Row:
        """Return what was measured."""
        stage, tolerance = self.stage, TOLERANCES[self._precision]
        if not self._is_float:
            unexpected = min(self._equal_alone) < _MIN_EQUAL
            return self._row(None, None, unexpected, agreement=float(np.mean(self._equal_along)))
        floor = self._best - tolerance.grid_db if self._is_pair else tolerance.tensor_db
        found = self._alone.sqnr_db
        cause = None
        channel, channel_db = self._alone.worst_channel()
        if stage.kind == "compute" and found >= floor and channel_db < tolerance.channel_db:
            # The tensor as a whole is near enough, one of its channels is not: two swapped, one scale wrong.
            found, floor, cause = channel_db, tolerance.channel_db, f"channel {channel}"
        unexpected = found < floor
        if unexpected and stage.kind == "compute":
            cause = _blame(stage, wires, reference, tolerance) or cause
        return self._row(found, floor, unexpected, cause=cause if unexpected else None)

    def _row(
        self,
        found: float | None,
        floor: float | None,
        unexpected: bool,
        *,
        agreement: float | None = None,
        cause: str | None = None,
    ) -> Row:
        along = None if agreement is not None else self._along
        return Row(
            precision=self._precision,
            stage=self.stage.reference,
            tensor=self.stage.tensor,
            op=self.stage.op,
            sqnr_db=None if along is None else along.sqnr_db,
            step_db=found,
            tolerance_db=floor,
            max_error=None if along is None else along.max_error,
            agreement=agreement,
            unexpected=unexpected,
            cause=cause,
        )


def explain(
    bundle: Bundle, frames: Mapping[str, Image], *, advance: Callable[[], None] = lambda: None
) -> dict[str, list[Row]]:
    """Compare every precision of `bundle` with its fp32 graph on `frames` ((H, W, 3) uint8 BGR, the contract's size).

    Returns the rows of each precision in the order in which a frame passes them; `advance` is called once for each
    frame of each precision. Needs memory for all tensors of two graphs at once, about 0.5 GB for 480x352. Raises
    `BundleError` if there is no fp32 graph, `ExportError` if a graph has not fp32's convolutions.
    """
    reference = read_wires(_load(bundle.model_path(REFERENCE)))
    others = {name: read_wires(_load(bundle.model_path(name))) for name in bundle.precisions if name != REFERENCE}
    steps = {
        name: [_Step(stage, wires, name) for stage in find_stages(reference, wires)] for name, wires in others.items()
    }
    runs = {name: GraphRun(wires, [step.stage.tensor for step in steps[name]]) for name, wires in others.items()}
    base = GraphRun(reference, [node.output[0] for node in reference.steps])
    for frame in frames.values():
        expected = base(frame)
        for name, run in runs.items():
            own = run(frame)
            for step in steps[name]:
                step.measure(expected, own)
            advance()
    return {name: [step.row(others[name], reference) for step in found] for name, found in steps.items()}


def first_unexpected(rows: list[Row]) -> Row | None:
    """Return the first step that loses more than it may."""
    return next((row for row in rows if row.unexpected), None)


class GraphRun:
    """A whole graph, as written, that gives the tensors named besides its mask."""

    def __init__(self, wires: Wires, tensors: list[str]) -> None:
        self._tensors, self._input = list(dict.fromkeys(tensors)), wires.inputs[0]
        self._session = open_session(
            wires.cut(wires.graph.node, [self._input], self._tensors), as_written=True, threads=1
        )

    def __call__(self, frame: Image) -> dict[str, Array]:
        fed = np.ascontiguousarray(frame[None])
        values = self._session.run(self._tensors, {self._input: fed})
        return {self._input: fed, **dict(zip(self._tensors, values, strict=True))}


def _load(path: Path) -> ModelProto:
    return onnx.load(str(path))


def _blame(stage: Stage, wires: Wires, reference: Wires, tolerance: Tolerance) -> str | None:
    """Compare the constants that an operator reads with fp32's; return the first that is not what it was."""
    for ours, theirs in stage.constants:
        expected = numpy_helper.to_array(reference.constants[ours]) if ours in reference.constants else None
        found = _fold(theirs, wires)
        if expected is None or found is None or not np.issubdtype(expected.dtype, np.floating):
            continue
        if expected.shape != found.shape:
            return f"{theirs} of shape {found.shape}, not {expected.shape}"
        noise = Noise()
        # Channels of a weight lie along its first axis.
        noise.add(expected.reshape(1, len(expected), -1) if expected.ndim else expected,
                  found.reshape(1, len(found), -1) if found.ndim else found)  # fmt: skip
        channel, channel_db = noise.worst_channel()
        if noise.sqnr_db < tolerance.tensor_db or channel_db < tolerance.channel_db:
            where = f", channel {channel}" if expected.ndim else ""
            return f"{theirs} is not {ours}{where}"
    return None


def _fold(name: str, wires: Wires) -> Array | None:
    """Return the value of a tensor that no frame reaches."""
    if name in wires.constants:
        return np.asarray(numpy_helper.to_array(wires.constants[name]))
    nodes, _ = wires.between(name, set())
    if not nodes:
        return None
    (value,) = open_session(wires.cut(nodes, [], [name]), as_written=True, threads=1).run([name], {})
    return np.asarray(value)
