"""Scores of one network on photos that were corrupted or attacked, kept so that a study can go on where it ended.

`drop` is the loss in percent of the clean score, 100 · (1 − mIoU / clean mIoU), on the same photos. Its mean over
severities and corruptions is 100 minus the rPC of Michaelis et al., "Benchmarking Robustness in Object Detection:
Autonomous Driving when Winter is Coming", 2019.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeseg.runtime.confusion import ConfusionMatrix
from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import DatasetError, EdgesegError
from edgeseg.runtime.evaluate import Alter, OnUnreadable, Predictor, predict_pairs
from edgeseg.runtime.frame import Image, Mask
from edgeseg.train.robustness.attack import EPSILON, STEP, STEPS
from edgeseg.train.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt

ATTACKS: dict[str, dict[str, float]] = {
    "fgsm": {"epsilon": EPSILON},
    "pgd": {"epsilon": EPSILON, "steps": STEPS, "step": STEP},
}
"""Settings of each attack, in grey levels of 255."""
SCHEMA = "edgeseg/robustness/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One score: of a corruption at a severity, of an attack, or clean."""

    name: str = "clean"
    severity: int = 0
    """0 for what has none."""


def plan_cells(names: Sequence[str]) -> list[Cell]:
    """Return what there is to score for these corruptions and attacks, the clean photos first."""
    cells = [Cell()]
    for name in names:
        cells += [Cell(name=name, severity=severity) for severity in (SEVERITIES if name in CORRUPTIONS else (0,))]
    return cells


@dataclass(kw_only=True)
class Study:
    """mIoU of each cell that was scored, in percent."""

    facts: Mapping[str, Any]
    """What was scored on what, as JSON: a study goes on only where these are the same."""
    cells: Sequence[Cell]
    scores: dict[Cell, float] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return everything found so far for JSON; what is not known yet is absent."""
        clean = self.scores.get(Cell())
        mean = self._mean_drop(list(CORRUPTIONS))
        drops = {group: self._mean_drop(names) for group, names in _groups().items()}
        return {
            **self.facts,
            "complete": all(cell in self.scores for cell in self.cells),
            **({} if clean is None else {"miou": clean}),
            **({} if mean is None else {"mean_relative_drop": mean}),
            "group_drops": {group: drop for group, drop in drops.items() if drop is not None},
            "corruptions": {
                name: self._corruption(name) for name in CORRUPTIONS if any(cell.name == name for cell in self.scores)
            },
            "attacks": {
                name: {**settings, "miou": self.scores[Cell(name=name)], "drop": self._drop(Cell(name=name))}
                for name, settings in ATTACKS.items()
                if Cell(name=name) in self.scores
            },
        }

    def resume(self, path: Path) -> None:
        """Take over the scores in the document at `path`; one that is not there has none.

        Raises `EdgesegError` if it is of another network, dataset or choice of photos.
        """
        if not path.exists():
            return
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            found = {name: document.get(name) for name in self.facts}
            scores = _read_scores(document)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise EdgesegError(
                f"{path} cannot be read", expected=f"a document of {SCHEMA}", fix="name another file with --json"
            ) from None
        wrong = [name for name, value in json.loads(json.dumps(dict(self.facts))).items() if found[name] != value]
        if wrong:
            raise EdgesegError(
                f"{path} was measured with another {', '.join(wrong)}",
                expected="the same network, photos and settings",
                fix="resume with those, or name another file with --json",
            )
        self.scores |= scores

    def run(
        self,
        network: Predictor,
        dataset: Dataset,
        pairs: Sequence[Pair],
        attacks: Mapping[str, Alter],
        *,
        seed: int,
        on_unreadable: OnUnreadable | None = None,
        keep: Callable[[], object] = lambda: None,
        advance: Callable[[int], object] = lambda n: None,
    ) -> None:
        """Score the cells that have no score yet, over `pairs`.

        `on_unreadable` is as `predict_pairs` has it. `keep` is called after each cell, `advance` with the number of
        photos done. Raises `DatasetError` if there is nothing to score, or a pair cannot be used.
        """
        for cell in self.cells:
            if cell in self.scores:
                advance(len(pairs))
                continue
            matrix = ConfusionMatrix(dataset.classes, dataset.ignore_index)
            alter = _alter_of(cell, attacks, seed)
            for prediction in predict_pairs(network, dataset, pairs, alter=alter, on_unreadable=on_unreadable):
                matrix.add(prediction.truth, prediction.mask)
                advance(1)
            if matrix.miou is None or (cell == Cell() and matrix.miou == 0):
                raise DatasetError(
                    f"{dataset.name}: " + ("no labelled pixel" if matrix.miou is None else "clean mIoU is 0"),
                    expected="photos on which the network is right somewhere",
                    fix="choose another split or more photos",
                )
            self.scores[cell] = matrix.miou
            keep()

    def _drop(self, cell: Cell) -> float:
        return 100.0 * (1 - self.scores[cell] / self.scores[Cell()])

    def _mean_drop(self, names: Sequence[str]) -> float | None:
        cells = [Cell(name=name, severity=severity) for name in names for severity in SEVERITIES]
        if not all(cell in self.scores for cell in cells):
            return None
        return sum(self._drop(cell) for cell in cells) / len(cells)

    def _corruption(self, name: str) -> dict[str, Any]:
        drop = self._mean_drop([name])
        cells = [Cell(name=name, severity=severity) for severity in SEVERITIES]
        return {
            "group": CORRUPTIONS[name].group,
            "miou": {str(cell.severity): self.scores[cell] for cell in cells if cell in self.scores},
            **({} if drop is None else {"drop": drop}),
        }


def _read_scores(document: dict[str, Any]) -> dict[Cell, float]:
    if document["schema"] != SCHEMA:
        raise ValueError(document["schema"])
    scores = {Cell(): float(document["miou"])} if "miou" in document else {}
    for name, found in document["corruptions"].items():
        scores |= {Cell(name=name, severity=int(at)): float(miou) for at, miou in found["miou"].items()}
    return scores | {Cell(name=name): float(found["miou"]) for name, found in document["attacks"].items()}


def _alter_of(cell: Cell, attacks: Mapping[str, Alter], seed: int) -> Alter | None:
    if cell == Cell():
        return None
    if cell.name in attacks:
        return attacks[cell.name]

    def alter(pair: Pair, image_bgr: Image, truth: Mask) -> Image:
        return corrupt(image_bgr, cell.name, cell.severity, seed=seed, picture=pair.stem)

    return alter


def _groups() -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, corruption in CORRUPTIONS.items():
        groups.setdefault(corruption.group, []).append(name)
    return groups
