"""A dataset's figures and a few of its pictures as one HTML file that fetches nothing."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import cv2
import numpy as np

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.dataset_stats import SplitStats
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.files import write_bytes
from edgeseg.runtime.frame import Image
from edgeseg.runtime.overlay import blend_classes

SAMPLES = 6
"""Pictures of each split, spread over it."""
_WIDTH = 280
_SIZES = 12


def write_page(path: Path, dataset: Dataset, stats: Mapping[str, SplitStats]) -> None:
    """Write `stats`, as `gather` gives them, as a page: whole or not at all. Raises `DatasetError` if it cannot."""
    template = Template((resources.files(__package__) / "dataset_page.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escape(f"{dataset.name}: {', '.join(f'{name} {one.images}' for name, one in stats.items())} images"),
        licence=escape(dataset.licence),
        splits="".join(f"<th>{escape(split)}</th>" for split in stats),
        classes="\n".join(_class_rows(dataset, stats)),
        sizes="\n".join(_size_rows(stats)),
        samples="\n".join(_sample_sections(dataset, stats)),
    )
    try:
        write_bytes(path, page.encode("utf-8", "replace"))
    except OSError as error:
        raise DatasetError(
            f"cannot write {path}: {error.strerror}", fix="give --html a file in a folder that can be written"
        ) from error


def _class_rows(dataset: Dataset, stats: Mapping[str, SplitStats]) -> Iterator[str]:
    for index, (name, colour) in enumerate(zip(dataset.classes, dataset.palette, strict=True)):
        cells = []
        for one in stats.values():
            share = one.shares.get(name, 0.0)
            # By the logarithm, from 0.001 to 100 %, so that rare classes can be told apart.
            width = max(0.0, 100 + 20 * np.log10(share / 100)) if share else 0.0
            bar = f'<div class="bar" style="width:{width:.1f}%;background:rgb{colour}"></div>'
            cells.append(f"<td>{bar}{share:.3g} % in {int(one.shown_in[index])} images</td>")
        chip = f'<span class="chip" style="background:rgb{colour}"></span>'
        yield f"<tr><th>{chip}{escape(name)}</th>{''.join(cells)}</tr>"
    voids = "".join(f"<td>{one.void:.3g} % of all pixels</td>" for one in stats.values())
    yield f"<tr><th>void</th>{voids}</tr>"


def _size_rows(stats: Mapping[str, SplitStats]) -> Iterator[str]:
    for split, one in stats.items():
        for (width, height), count in one.sizes.most_common(_SIZES):
            yield f"<tr><th>{escape(split)}</th><td>{width} × {height}</td><td>{count} images</td></tr>"
        if len(one.sizes) > _SIZES:
            yield f"<tr><th>{escape(split)}</th><td>{len(one.sizes) - _SIZES} more sizes</td><td></td></tr>"
        for kind, count in one.kinds.most_common():
            yield f"<tr><th>{escape(split)}</th><td>{escape(kind)}</td><td>{count} images</td></tr>"


def _sample_sections(dataset: Dataset, stats: Mapping[str, SplitStats]) -> Iterator[str]:
    contract = Contract(
        height=32, width=32, classes=dataset.classes, palette=dataset.palette, ignore_index=dataset.ignore_index
    )
    for split in stats:
        pairs = dataset.pairs(split)
        places = np.unique(np.linspace(0, len(pairs) - 1, SAMPLES).round().astype(int))
        figures = []
        for pair in (pairs[place] for place in places):
            try:
                image, mask = dataset.read_pair(pair)
            except DatasetError:
                continue
            pictures = "".join(map(_picture, (image, blend_classes(image, mask, contract))))
            figures.append(f"<figure>{pictures}<figcaption>{escape(pair.stem)}</figcaption></figure>")
        yield f"<section><h2>{escape(split)}</h2>{''.join(figures)}</section>"


def _picture(image: Image) -> str:
    height, width = image.shape[:2]
    if width > _WIDTH:
        size_wh = (_WIDTH, max(1, round(height * _WIDTH / width)))
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    data = base64.b64encode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" alt="">'
