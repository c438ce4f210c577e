"""Which pictures calibrate, and which choose: all of them trained on or held out, none of them scored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.runtime.dataset import Dataset, Pair
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import spread
from edgeseg.runtime.files import sha256_file
from edgeseg.runtime.manifest import Calibration

_REST = 0.2
"""Share of the training pictures that chooses where no split was held out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """What is learned from, what is observed, what the options are compared on, and what the bundle says of it."""

    training: tuple[Pair, ...]
    """All that the run was trained on, but what is held out here."""
    calibration: tuple[Pair, ...]
    holdout: tuple[Pair, ...]
    record: Calibration


def choose_pictures(
    dataset: Dataset, metadata: dict[str, Any], *, scored: str, calibration: int, holdout: int
) -> Pictures:
    """Take `calibration` pictures of the run's own training splits, and `holdout` others.

    The others come from the split that the run held out to select by; where there is none, or it is `scored`, from
    the end of the training splits, and then none of them calibrates. `metadata` is a `LoadedRun`'s. Raises
    `ExportError` if the dataset's training splits are not those that the run was trained on, or hold a scored image.
    """
    forbidden = {pair.image.resolve() for pair in dataset.pairs(scored)}
    digests = _training_digests(dataset, metadata["digests"])
    pairs = [pair for split in digests for pair in dataset.pairs(split)]
    if seen := sum(pair.image.resolve() in forbidden for pair in pairs):
        raise ExportError(
            f"{seen} images of split {scored!r} were trained on, and would calibrate what is scored on them",
            expected="a split that the run has not seen",
            fix="name another --split",
        )
    select = metadata["config"].get("select")
    others = _held_out(dataset, select, {*forbidden, *(pair.image.resolve() for pair in pairs)})
    if others:
        name = str(select)
    else:
        rest = max(1, round(len(pairs) * _REST))
        pairs, others, name = pairs[:-rest], pairs[-rest:], f"the last {rest} of {', '.join(digests)}"
    if not pairs:
        raise ExportError("one picture was trained on", expected="at least two: one calibrates, the other chooses")
    # Training passed over the few that cannot be read, and to remove them now would change the digests.
    chosen = tuple(dataset.readable(spread(pairs, calibration)))
    compared = tuple(dataset.readable(spread(others, holdout)))
    return Pictures(
        training=tuple(pairs),
        calibration=chosen,
        holdout=compared,
        record=Calibration(
            splits=digests,
            images=len(chosen),
            images_sha256=_digest(chosen),
            holdout=name,
            holdout_images=len(compared),
            holdout_sha256=_digest(compared),
        ),
    )


def _training_digests(dataset: Dataset, digests: dict[str, str]) -> dict[str, str]:
    for split, digest in digests.items():
        if split not in dataset.splits or dataset.digest(split) != digest:
            found = "is not the one" if split in dataset.splits else "is missing, which is one"
            raise ExportError(
                f"split {split!r} of dataset {dataset.name!r} {found} that the run was trained on",
                expected=f"images and masks of digest {digest[:12]}…, to calibrate INT8 on",
                fix="give --data the dataset of the training, or export without INT8: --precision fp32",
            )
    return dict(digests)


def _held_out(dataset: Dataset, select: str | None, taken: set[Path]) -> list[Pair]:
    if select is None or select not in dataset.splits:
        return []
    pairs = dataset.pairs(select)
    return [] if any(pair.image.resolve() in taken for pair in pairs) else pairs


def _digest(pairs: Sequence[Pair]) -> str:
    lines = (f"{path.name}\0{sha256_file(path)}\n" for pair in pairs for path in (pair.image, pair.mask))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
