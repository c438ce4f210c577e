"""Each graph of a bundle in the making is scored through the door that a device opens, and let through or not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgeseg.export.golden import FP32_AGREEMENT
from edgeseg.export.parity import MIN_AGREEMENT, Parity
from edgeseg.export.quantise.gate import Limits, Loss, measure_loss
from edgeseg.export.quantise.search import Placement, Row, Search
from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.bundle import Bundle, write_bundle
from edgeseg.runtime.commands.common import console, progress
from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.dataset_bad_pairs import BadPairs
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import evaluate
from edgeseg.runtime.files import sha256_file, write_bytes, write_json
from edgeseg.runtime.first_use import least_agreement
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.manifest import MANIFEST, Golden, Precision, Provenance, Raised, Stage, model_name

FP16_AGREEMENT = 0.99
"""Share of a golden frame's pixels on which FP16 must give fp32's class."""
_GOLDEN_MARGIN = 0.02
"""Engines round differently, and INT8 makes steps of it; saturating kernels cost several times this."""


class GateError(ExportError):
    """A graph that loses more than it may. `report` is everything measured up to there."""

    def __init__(self, message: str, *, expected: str, report: dict[str, Any]) -> None:
        super().__init__(message, expected=expected)
        self.report = report

    def keep(self, out: Path) -> ExportError:
        """Write the report beside `out`, and return the error that names it."""
        path = out.with_name(f"{out.name}.report.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"schema": "edgeseg/export-report/1", "failed": self.found, **self.report})
        return ExportError(
            self.found,
            expected=self.expected,
            fix=f"see {path}; train longer, allow more with --max-drop, or leave that --precision out",
        )


class Judge:
    """Scores the graphs in `folder` on a split of `dataset` and keeps their stages, fp32 first."""

    def __init__(self, folder: Path, contract: Contract, dataset: Dataset, split: str, limits: Limits) -> None:
        self._folder, self._contract, self._dataset, self._split = folder, contract, dataset, split
        self._limits = limits
        self._digest = dataset.digest(split)
        self._masks: list[bytes] = []
        self.stages: dict[Precision, Stage] = {}
        self.golden_frames: tuple[str, ...] = ()
        """Names of the golden frames in the folder, once there are any."""
        self.areas: dict[str, float] = {}
        """Class areas in the reference's masks, once it was scored."""
        self.golden: dict[Precision, float] = {"fp32": FP32_AGREEMENT}
        """Share of each golden frame's pixels that each precision must reach on any machine."""

    @contextmanager
    def open(self, precision: Precision) -> Iterator[tuple[Bundle, Backend]]:
        """Open the graph of `precision` as a device would: through a bundle, here a draft of one."""
        manifest = write_bundle(
            self._folder,
            name="draft",
            contract=self._contract,
            stages={},
            golden=Golden(frames=self.golden_frames),
            provenance=Provenance(dataset=self._dataset.name, splits={}, created="draft"),
        )
        bundle = Bundle(self._folder, manifest, sha256_file(self._folder / MANIFEST))
        with closing(open_backend(bundle, backend="ort", precision=precision)) as backend:
            yield bundle, backend

    def score_fp32(self, backend: Backend, parity: Parity) -> None:
        """Score the reference and remember its masks."""
        matrix = self._evaluate("fp32", backend, lambda mask: self._masks.append(zlib.compress(mask.tobytes(), 1)))
        self.areas = matrix.predicted_areas
        self._keep("fp32", matrix, parity.agreement, {"pixel_agreement": MIN_AGREEMENT})

    def score(self, precision: Precision, graph: bytes) -> Stage:
        """Put `graph` into the folder, score it and compare its masks with the reference's."""
        write_bytes(self._folder / model_name(precision), graph)
        shares: list[float] = []

        def compare(mask: Mask) -> None:
            reference = np.frombuffer(zlib.decompress(self._masks[len(shares)]), np.uint8)
            shares.append(float(np.mean(mask.reshape(-1) == reference)))

        with self.open(precision) as (bundle, backend):
            matrix = self._evaluate(precision, backend, compare)
            self.golden[precision] = least_agreement(bundle, backend)
        return self._keep(precision, matrix, sum(shares) / len(shares), {})

    def pass_gate(self, search: Search, placement: Placement) -> None:
        """Score the graph of `placement`, raising layers in the order of its ranking until the limits hold.

        The ranking is the hold-out's: this split only says yes or no. Raises `GateError` when no more may be raised.
        """
        precision = placement.precision
        while True:
            stage = self.score(precision, search.build(placement))
            loss = measure_loss(self.stages["fp32"], stage)
            self.stages[precision] = self._with_loss(stage, loss, placement)
            if not loss.exceeds(self._limits):
                self.golden[precision] = max(self.golden[precision] - _GOLDEN_MARGIN, 0.0)
                return
            if not search.raise_next(placement):
                raise self._refusal(precision, loss, search.rows)

    def score_fp16(self, graph: bytes) -> None:
        """Score the FP16 graph. Raises `GateError` if it is further from fp32 than `FP16_AGREEMENT`."""
        self.score("fp16", graph)
        found = self.golden["fp16"]
        if found < FP16_AGREEMENT:
            raise GateError(
                f"fp16 gives {found:.2%} of a golden frame's pixels as fp32 does",
                expected=f"at least {FP16_AGREEMENT:.0%}",
                report=self._report(()),
            )
        self.golden["fp16"] = FP16_AGREEMENT

    def _evaluate(self, precision: Precision, backend: Backend, take: Callable[[Mask], object]) -> ConfusionMatrix:
        class Watched:
            contract = self._contract

            def infer(self, fitted: Image, /) -> Mask:
                mask = backend.infer(fitted)
                take(mask)
                return mask

        total = len(self._dataset.pairs(self._split))
        # They are the same for every precision, and named once.
        bad = BadPairs(total, report=console.print if precision == "fp32" else lambda line: None)
        with progress(f"scoring {precision} on {self._split}", total) as advance:
            return evaluate(Watched(), self._dataset, self._split, on_unreadable=bad.add, advance=advance)

    def _keep(
        self, precision: Precision, matrix: ConfusionMatrix, agreement: float, thresholds: dict[str, float]
    ) -> Stage:
        stage = Stage(
            **matrix.document(),
            split=self._split,
            split_sha256=self._digest,
            instruction_set=environment().get("instruction_set", ()),
            pixel_agreement=agreement,
            thresholds=thresholds,
        )
        self.stages[precision] = stage
        return stage

    def _with_loss(self, stage: Stage, loss: Loss, placement: Placement) -> Stage:
        kept: Any = "fp16" if placement.precision == "int8" else "fp32"
        return stage.model_copy(
            update={
                "drop": loss.drop,
                "class_drop": loss.class_drop,
                "thresholds": {"drop": self._limits.drop, "class_drop": self._limits.class_drop},
                "options": {"estimator": placement.estimator, "weights": placement.weights},
                "raised": {name: Raised(precision=kept, reason=why) for name, why in placement.reasons.items()},
            }
        )

    def _refusal(self, precision: Precision, loss: Loss, rows: Sequence[Row]) -> GateError:
        raised = len(self.stages[precision].raised)
        return GateError(
            f"{precision} on {self._split}: {loss}, with {raised} layers raised",
            expected=f"at most {self._limits.drop} mIoU and {self._limits.class_drop} by a class",
            report=self._report(rows),
        )

    def _report(self, rows: Sequence[Row]) -> dict[str, Any]:
        stages = {name: stage.model_dump(mode="json", exclude_none=True) for name, stage in self.stages.items()}
        return {"stages": stages, "tried": [row.document() for row in rows], "environment": environment()}
