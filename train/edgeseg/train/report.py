"""Pictures of a run: its curves, and predictions beside the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from edgeseg.runtime.contract import Contract, Fitter
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import UnreadablePairError
from edgeseg.runtime.files import whole_file
from edgeseg.runtime.frame import Image, Mask

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import Patch


def draw_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a PNG of the loss and, where it was scored, the mIoU of each epoch."""
    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axis.plot([row["epoch"] for row in history], [row["loss"] for row in history], color="tab:blue")
    axis.set_xlabel("epoch")
    axis.set_ylabel("training loss", color="tab:blue")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if scored := [row for row in history if row.get("miou") is not None]:
        right = axis.twinx()
        right.plot([row["epoch"] for row in scored], [row["miou"] for row in scored], "o-", color="tab:orange")
        right.set_ylabel("mIoU on the select split, %", color="tab:orange")
        right.annotate(
            f"{scored[-1]['miou']:.1f}", (scored[-1]["epoch"], scored[-1]["miou"]), (-8, 6), textcoords="offset points"
        )
    _save(figure, path)


def draw_predictions(
    predict: Callable[[Image], Mask], dataset: Dataset, split: str, contract: Contract, path: Path, *, rows: int = 4
) -> None:
    """Write a PNG of `rows` images spread over `split`: photo, truth and prediction side by side, with a legend.

    Those that cannot be read are left out; where none can, nothing is written.
    """
    pairs = dataset.pairs(split)
    chosen = []
    for index in np.unique(np.linspace(0, len(pairs) - 1, rows).round().astype(int)):
        with suppress(UnreadablePairError):
            chosen.append((pairs[index].stem, *dataset.read_pair(pairs[index])))
    if not chosen:
        return
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(contract.palette)] = contract.palette
    figure, axes = plt.subplots(len(chosen), 3, figsize=(12, 3.1 * len(chosen)), layout="constrained", squeeze=False)
    for line, (stem, image, truth) in zip(axes, chosen, strict=True):
        fitter = Fitter(contract, (image.shape[0], image.shape[1]))
        mask = fitter.unfit(predict(fitter.fit(image))[0])
        panels = (("photo", image[..., ::-1]), ("truth", colours[truth]), ("prediction", colours[mask]))
        for axis, (title, picture) in zip(line, panels, strict=True):
            axis.imshow(picture)
            axis.set_title(f"{title}: {stem}" if title == "photo" else title, fontsize=9)
            axis.axis("off")
    handles = [
        Patch(facecolor=(colour[0] / 255, colour[1] / 255, colour[2] / 255), edgecolor="grey", label=name)
        for name, colour in zip(contract.classes, contract.palette, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110)
    plt.close(figure)
