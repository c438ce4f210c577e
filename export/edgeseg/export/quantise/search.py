"""Choose how to quantise by what it costs, measured on the calibration hold-out; every try is a row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from onnx import ModelProto

from edgeseg.export.graph import seal_graph
from edgeseg.export.quantise.cpu import place_for_cpu
from edgeseg.export.quantise.device import place_for_tensorrt
from edgeseg.export.quantise.estimate import ESTIMATORS, estimate_ranges
from edgeseg.export.quantise.gate import Limits, Loss, measure_loss
from edgeseg.export.quantise.observe import Histogram, Ranges
from edgeseg.export.quantise.score import Arithmetic, Scorer
from edgeseg.export.quantise.weights import NEVER_SATURATING, WeightRule
from edgeseg.runtime.manifest import Precision

RANKING_IMAGES = 8
NOISE = 0.3
"""Points of mIoU that settings differ by on a few dozen pictures though they are equally good."""
_SUSPECTS = 3
"""Blocks whose layers are looked at one by one."""

Say = Callable[["Row"], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One try, as measured on the hold-out."""

    precision: Precision
    estimator: str
    weights: WeightRule
    raised: tuple[str, ...] = ()
    arithmetic: Arithmetic
    """How it was computed; the CPU's graph is chosen by what the kernels give, TensorRT's by what is written."""
    images: int
    miou: float
    drop: float
    class_drop: float
    worst_class: str
    agreement: float
    """Share of pixels that fp32 gives the same class."""
    time: float | None = None
    """Time of a frame on one thread as a share of fp32's, where kernels ran that run in service."""

    def document(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(kw_only=True, slots=True)
class Placement:
    """One INT8 graph in the making: its settings, and the convolutions raised so far."""

    precision: Precision
    estimator: str
    weights: WeightRule = "8-bit"
    reasons: dict[str, str] = field(default_factory=dict)
    """Raised convolution -> why."""
    ranking: list[tuple[str, str]] | None = None
    """Convolutions that are worth raising, the best first, and why; None until they needed."""

    @property
    def arithmetic(self) -> Arithmetic:
        """What it is chosen and let through by."""
        return "as written" if self.precision == "int8" else "kernels"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """An fp32 graph and how far its values' integers are to reach."""

    model: ModelProto
    ranges: Ranges


class Search:
    """Tries settings of one fp32 graph on one hold-out. `say` is given each row as it is measured."""

    def __init__(
        self,
        model: ModelProto,
        histograms: Mapping[str, Histogram],
        scorer: Scorer,
        *,
        limits: Limits,
        max_raised: int,
        say: Say = lambda row: None,
    ) -> None:
        self._model, self._scorer, self._limits, self._max_raised, self._say = model, scorer, limits, max_raised, say
        self.sources = {name: Source(model=model, ranges=estimate_ranges(histograms, name)) for name in ESTIMATORS}
        """Estimator -> what to place. Others of the same nodes may be added."""
        self.rows: list[Row] = []

    def build(self, placement: Placement, raised: Collection[str] | None = None) -> bytes:
        """Return the graph of `placement`, with its raised convolutions or with `raised` instead."""
        source = self.sources[placement.estimator]
        kept = placement.reasons if raised is None else raised
        if placement.precision == "int8":
            return seal_graph(place_for_tensorrt(source.model, source.ranges, raised=kept))
        return seal_graph(place_for_cpu(source.model, source.ranges, weights=placement.weights, raised=kept))

    def choose_estimator(self) -> Placement:
        """Try every estimator that was not tried yet in TensorRT's placement; return the best of all."""
        return self._best([Placement(precision="int8", estimator=name) for name in self.sources])

    def choose_weights(self, estimator: str) -> Placement:
        """Try every rule for the size of the CPU graph's weights, with the kernels that run here; return the best.

        The bundle will run on other processors, and full weights saturate on those without VNNI: they must be better
        here by more than noise. What the kernels cost is measured too: each rule as written, and full weights by
        kernels that never saturate.
        """
        rules: tuple[WeightRule, ...] = get_args(WeightRule)
        placements = [Placement(precision="int8-cpu", estimator=estimator, weights=rule) for rule in rules]
        best = self._best(placements, preferred=lambda placement: placement.weights in NEVER_SATURATING)
        for placement in placements:
            self._try(placement, "as written")
        self._try(placements[0], "exact kernels")
        return best

    def settle(self, placement: Placement) -> None:
        """Raise convolutions until the hold-out's loss is within the limits, or no more may be raised."""
        row = self._row(placement)
        while _loss(row).exceeds(self._limits) and self.raise_next(placement):
            row = self._try(placement)

    def raise_next(self, placement: Placement) -> bool:
        """Raise the next convolution of the ranking; False if there is none, or enough are raised."""
        if placement.ranking is None:
            placement.ranking = self._rank(placement)
        left = [(name, reason) for name, reason in placement.ranking if name not in placement.reasons]
        if not left or len(placement.reasons) >= self._max_raised:
            return False
        placement.reasons.update([left[0]])
        return True

    def _best(
        self, placements: list[Placement], preferred: Callable[[Placement], bool] = lambda placement: True
    ) -> Placement:
        """Return the one with the highest mIoU; where several come as near to it as noise does, a `preferred` one, and
        of these the most faithful.
        """
        rows = [(placement, self._row(placement)) for placement in placements]
        enough = max(row.miou for _, row in rows) - NOISE
        near = [(preferred(placement), row.agreement, placement) for placement, row in rows if row.miou >= enough]
        return max(near, key=lambda candidate: candidate[:2])[2]

    def _row(self, placement: Placement) -> Row:
        """Return the last row of the settings of `placement`, after trying it if there is none."""
        tried = (row for row in reversed(self.rows) if _is_of(row, placement))
        return next(tried, None) or self._try(placement)

    def _try(self, placement: Placement, arithmetic: Arithmetic | None = None) -> Row:
        graph, arithmetic = self.build(placement), arithmetic or placement.arithmetic
        score = self._scorer.score(graph, arithmetic)
        loss = measure_loss(self._scorer.fp32, score.matrix)
        row = Row(
            precision=placement.precision,
            estimator=placement.estimator,
            weights=placement.weights,
            raised=tuple(placement.reasons),
            arithmetic=arithmetic,
            images=len(self._scorer),
            miou=score.matrix.miou or 0.0,
            drop=loss.drop,
            class_drop=loss.class_drop,
            worst_class=loss.worst_class,
            agreement=score.agreement,
            time=None if arithmetic == "as written" else self._scorer.measure_time(graph, arithmetic),
        )
        self.rows.append(row)
        self._say(row)
        return row

    def _rank(self, placement: Placement) -> list[tuple[str, str]]:
        """Order convolutions by how many more pixels agree with fp32 once they are raised alone.

        Blocks first, then the layers of the best blocks: agreement moves with every pixel, mIoU of a few pictures
        hardly does.
        """
        before = self._agreement(placement, ())
        blocks: dict[str, list[str]] = {}
        for node in self._model.graph.node:
            if node.op_type == "Conv":
                blocks.setdefault(_block(node.input[1]), []).append(node.name)
        gains = {block: self._agreement(placement, names) for block, names in blocks.items()}
        suspects = sorted(gains, key=lambda block: -gains[block])[:_SUSPECTS]
        layers = {name: self._agreement(placement, [name]) for block in suspects for name in blocks[block]}
        ranked = sorted((name for name in layers if layers[name] > before), key=lambda name: -layers[name])
        return [
            (name, f"pixels that agree with fp32: {before:.2%}, with this layer raised alone {layers[name]:.2%}")
            for name in ranked
        ]

    def _agreement(self, placement: Placement, raised: Collection[str]) -> float:
        graph = self.build(placement, raised)
        images = min(RANKING_IMAGES, len(self._scorer))
        return self._scorer.score(graph, placement.arithmetic, images=images).agreement


def _loss(row: Row) -> Loss:
    return Loss(drop=row.drop, class_drop=row.class_drop, worst_class=row.worst_class)


def _is_of(row: Row, placement: Placement) -> bool:
    return (row.precision, row.estimator, row.weights, row.arithmetic) == (
        placement.precision,
        placement.estimator,
        placement.weights,
        placement.arithmetic,
    )


def _block(weight: str) -> str:
    """Return the block that a weight's name tells: `backbone.stages.3.1` of `backbone.stages.3.1.layers.0.0.weight`."""
    return weight.split(".layers.")[0].rpartition(".weight")[0] or weight.split(".layers.")[0]
