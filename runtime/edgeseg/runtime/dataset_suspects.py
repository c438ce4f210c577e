"""Labels worth a second look: where a network sees one thing and the label says another, as it does nowhere else.

An image's score is that of its worst place: a connected place of pixels with one label and one other class seen, by its
share of the image, over the share of all images that has this disagreement. A network that takes pavement for road does
so in many places; a mislabelled object is the only one of its kind. Tried on every second CamVid test photo with
`street`: one object each of 12 of 117 given a wrong class, eight times over. Of these 96, the first 12 hold 35; ranked
by all pixels that disagree, 17.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from edgeseg.runtime.contact_sheet import SheetRow, draw_sheet, save_picture
from edgeseg.runtime.dataset import Dataset, Entry, Pair
from edgeseg.runtime.evaluate import Predictor, check_classes, predict_pairs
from edgeseg.runtime.frame import Mask

_BORDER = 0.01
"""Share of the shorter side on which a border may lie differently without being a mistake."""
_SMALL = 0.004
"""Share of one image added to every disagreement's own, so that a rare one of a few pixels does not come first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """An image whose label and network disagree, and the oddest place of it."""

    splits: tuple[str, ...]
    pair: Pair
    file: str
    """The label, relative to the dataset's folder."""
    disagreement: float
    """Percent of the labelled pixels."""
    percent: float
    """Of the labelled pixels, in the oddest place."""
    labelled: str
    seen: str

    def document(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        place = {"percent": round(self.percent, 3), "labelled": self.labelled, "seen": self.seen}
        return {
            "file": self.file,
            "splits": list(self.splits),
            "disagreement": round(self.disagreement, 3),
            "place": place,
        }


class _Place(NamedTuple):
    share: float
    """Of the image's labelled pixels."""
    label: int
    seen: int


def find_suspects(
    network: Predictor,
    dataset: Dataset,
    entries: Mapping[Entry, Sequence[str]],
    *,
    count: int,
    advance: Callable[[], object] = lambda: None,
) -> list[Suspect]:
    """Return up to `count` of `entries`, whose files are pairs, the oddest first.

    Pairs that cannot be read are left out. Raises `DatasetError` if the classes are not the network's.
    """
    check_classes(network.contract, dataset)
    splits_of = {
        Pair(stem=entry.stem, image=entry.images[0], mask=entry.masks[0]): splits for entry, splits in entries.items()
    }
    usual = np.full((256, 256), _SMALL)
    found: list[tuple[Pair, float, list[_Place]]] = []
    for prediction in predict_pairs(network, dataset, list(splits_of), on_unreadable=lambda error: advance()):
        truth, mask = prediction.truth, prediction.mask
        labelled = int(np.count_nonzero(truth != dataset.ignore_index))
        wrong = (truth != dataset.ignore_index) & (truth != mask) & (mask < len(dataset.classes))
        if wrong.any():
            np.add.at(usual, (truth[wrong], mask[wrong]), 1 / labelled)
            places = _places(truth, mask, wrong & ~_borders(truth), labelled)
            found.append((prediction.pair, 100 * np.count_nonzero(wrong) / labelled, places))
        advance()

    def oddness(place: _Place) -> float:
        return place.share / float(usual[place.label, place.seen])

    suspects = []
    for pair, disagreement, places in found:
        if places:
            worst = max(places, key=oddness)
            suspect = Suspect(
                splits=tuple(splits_of[pair]),
                pair=pair,
                file=pair.mask.relative_to(dataset.folder).as_posix(),
                disagreement=disagreement,
                percent=100 * worst.share,
                labelled=dataset.classes[worst.label],
                seen=dataset.classes[worst.seen],
            )
            suspects.append((oddness(worst), suspect))
    return [one for _, one in sorted(suspects, key=lambda scored: (-scored[0], scored[1].file))[:count]]


def draw_suspects(path: Path, network: Predictor, dataset: Dataset, suspects: Sequence[Suspect], title: str) -> None:
    """Write photo, what the network sees and the label of each to `path`, a PNG; they are looked at once more for it.

    Raises `SinkError` if it cannot be written.
    """
    rows = []
    predictions = predict_pairs(network, dataset, [suspect.pair for suspect in suspects])
    for suspect, prediction in zip(suspects, predictions, strict=True):
        caption = f"{suspect.file}    labelled {suspect.labelled}, seen as {suspect.seen}: {suspect.percent:.1f} %"
        rows.append(SheetRow.of(prediction.image_bgr, prediction.mask, prediction.truth, caption))
    facts = ["the place that each caption names disagrees as few others do"]
    save_picture(path, draw_sheet(rows, network.contract, title=title, facts=facts))


def _borders(truth: Mask) -> npt.NDArray[np.bool_]:
    """Whether a pixel lies so close to a border of the label that either side may be right."""
    side = 2 * max(1, round(_BORDER * min(truth.shape))) + 1
    return cv2.morphologyEx(truth, cv2.MORPH_GRADIENT, np.ones((side, side), np.uint8)) > 0


def _places(truth: Mask, mask: Mask, wrong: npt.NDArray[np.bool_], labelled: int) -> list[_Place]:
    """Return the largest connected place of every disagreement."""
    kinds = truth.astype(np.int32) << 8 | mask
    places = []
    for kind in np.unique(kinds[wrong]).tolist():
        areas = cv2.connectedComponentsWithStats((wrong & (kinds == kind)).astype(np.uint8))[2][1:, cv2.CC_STAT_AREA]
        places.append(_Place(int(areas.max()) / labelled, kind >> 8, kind & 255))
    return places
