"""One picture of a whole run: a few of its frames, what the network saw in them, and the truth where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.files import write_bytes
from edgeseg.runtime.frame import Image, Mask, Result
from edgeseg.runtime.overlay import SOFT, WHITE, Colour, blend_classes, fill_rounded, put_text, text_width

PAPER: Colour = (30, 25, 22)
QUIET: Colour = (160, 152, 146)

TILE_WIDTH = 480
MARGIN = 28
GAP = 14
TITLE_CAP, HEAD_CAP, TEXT_CAP = 19, 11, 10


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SheetRow:
    """One line of a sheet, already at its size: a long run of large frames must not fill the memory."""

    image_bgr: Image
    mask: Mask
    truth: Mask | None
    caption: str

    @classmethod
    def of(cls, image_bgr: Image, mask: Mask, truth: Mask | None, caption: str) -> SheetRow:
        """Shrink what was seen to the sheet's size."""
        return cls(
            image_bgr=_shrink(image_bgr, cv2.INTER_AREA),
            mask=_shrink(mask, cv2.INTER_NEAREST_EXACT),
            truth=None if truth is None else _shrink(truth, cv2.INTER_NEAREST_EXACT),
            caption=caption,
        )


class ContactSheet:
    """A sink that keeps a few results, evenly spread over a run of any length, and draws them as one PNG.

    It keeps every n-th result; when twice as many as asked for have gathered, it drops every second one and doubles n.
    Thus it never holds more than `2 * rows` results, at the sheet's size.
    """

    spec = "contact sheet"

    def __init__(self, contract: Contract, *, rows: int = 4) -> None:
        """`rows` is the number of frames on the sheet, fewer if the run is shorter."""
        self.contract, self.rows = contract, rows
        self._kept: list[SheetRow] = []
        self._stride = 1
        self._seen = 0

    def __len__(self) -> int:
        """Number of results held."""
        return len(self._kept)

    def write(self, result: Result) -> None:
        if self._seen % self._stride == 0:
            self._kept.append(self._row(result))
        self._seen += 1
        if len(self._kept) == 2 * self.rows:
            del self._kept[1::2]
            self._stride *= 2

    def close(self) -> None:
        """Nothing to finish: the sheet is drawn by `save`, once the run's figures are known."""

    def render(self, title: str, facts: Sequence[str]) -> Image:
        """Draw the sheet under `title` and a line of `facts`. Returns (H, W, 3) uint8 BGR."""
        return draw_sheet(self._spread(), self.contract, title=title, facts=facts)

    def save(self, path: Path, *, title: str, facts: Sequence[str]) -> None:
        """Write the sheet to `path` as PNG, whole or not at all. Raises `SinkError` if it cannot be written."""
        save_picture(path, self.render(title, facts))

    def _row(self, result: Result) -> SheetRow:
        frame = result.frame
        caption = [frame.name, f"age {result.frame_age_ms:.0f} ms", f"inference {result.inference_ms:.0f} ms"]
        if frame.truth is not None:
            known = frame.truth != self.contract.ignore_index
            if known.any():
                caption.append(f"{100 * np.mean(result.mask[known] == frame.truth[known]):.1f}% of pixels right")
        return SheetRow.of(frame.image_bgr, result.mask, frame.truth, "    ".join(caption))

    def _spread(self) -> list[SheetRow]:
        """Pick `rows` of what was kept, first and last included."""
        count = min(self.rows, len(self._kept))
        return [self._kept[round(i)] for i in np.linspace(0, len(self._kept) - 1, count)]


def draw_sheet(rows: Sequence[SheetRow], contract: Contract, *, title: str, facts: Sequence[str]) -> Image:
    """Draw `rows` under `title` and a line of `facts`. Returns (H, W, 3) uint8 BGR."""
    columns = ["frame", "prediction", *(["truth"] if any(row.truth is not None for row in rows) else [])]
    width = 2 * MARGIN + len(columns) * TILE_WIDTH + (len(columns) - 1) * GAP
    bands = [
        _heading(title, facts, width),
        _labels(columns, width),
        *(_band(row, _tiles(row, len(columns), contract), width) for row in rows),
        _legend(rows, contract, width),
    ]
    return np.vstack(bands)


def save_picture(path: Path, picture_bgr: Image) -> None:
    """Write a picture to `path` as PNG, whole or not at all. Raises `SinkError` if it cannot be written."""
    data = cv2.imencode(".png", picture_bgr)[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
    except OSError as error:
        raise SinkError(f"picture {path} cannot be written ({error.strerror})", fix="name a writable folder") from error


def _tiles(row: SheetRow, columns: int, contract: Contract) -> list[Image]:
    tiles = [row.image_bgr, blend_classes(row.image_bgr, row.mask, contract)]
    if row.truth is not None:
        tiles.append(blend_classes(row.image_bgr, row.truth, contract))
    return tiles + [np.full_like(row.image_bgr, PAPER)] * (columns - len(tiles))


def _legend(rows: Sequence[SheetRow], contract: Contract, width: int) -> Image:
    """Chips and names of the classes on the sheet, wrapped."""
    shown = {int(i) for row in rows for mask in (row.mask, row.truth) if mask is not None for i in np.unique(mask)}
    chip, step = TEXT_CAP + 4, 2 * TEXT_CAP + 6
    lines: list[list[tuple[int, int]]] = [[]]
    left = MARGIN
    for index in sorted(i for i in shown if i < len(contract.classes)):
        room = chip + 8 + text_width(contract.classes[index], TEXT_CAP)
        if left + room > width - MARGIN and lines[-1]:
            lines.append([])
            left = MARGIN
        lines[-1].append((left, index))
        left += room + 22
    band = _paper(MARGIN + step * len(lines), width)
    for number, line in enumerate(lines):
        top = MARGIN // 3 + number * step
        for left, index in line:
            red, green, blue = contract.palette[index]
            fill_rounded(band, (left, top, chip, chip), 4, SOFT, 0.5)
            fill_rounded(band, (left + 1, top + 1, chip - 2, chip - 2), 3, (blue, green, red), 1.0)
            name_left = left + chip + 8
            put_text(band, contract.classes[index], name_left, top + chip - 2, TEXT_CAP, SOFT)
    return band


def _shrink(picture: Image | Mask, interpolation: int) -> Image:
    height, width = picture.shape[:2]
    size_wh = (TILE_WIDTH, max(1, round(height * TILE_WIDTH / width)))
    if interpolation == cv2.INTER_AREA and width < TILE_WIDTH:
        interpolation = cv2.INTER_LINEAR
    return cv2.resize(picture, size_wh, interpolation=interpolation)  # type: ignore[return-value]


def _paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAPER, np.uint8)


def _heading(title: str, facts: Sequence[str], width: int) -> Image:
    band = _paper(MARGIN + TITLE_CAP + 18 + HEAD_CAP + 22, width)
    put_text(band, title, MARGIN, MARGIN + TITLE_CAP, TITLE_CAP, WHITE)
    put_text(band, "     ".join(facts), MARGIN, MARGIN + TITLE_CAP + 18 + HEAD_CAP, HEAD_CAP, SOFT)
    return band


def _labels(columns: Sequence[str], width: int) -> Image:
    band = _paper(HEAD_CAP + 12, width)
    for number, name in enumerate(columns):
        put_text(band, name, MARGIN + number * (TILE_WIDTH + GAP), HEAD_CAP + 2, HEAD_CAP, QUIET)
    return band


def _band(row: SheetRow, tiles: Sequence[Image], width: int) -> Image:
    height = row.image_bgr.shape[0]
    band = _paper(height + TEXT_CAP + 30, width)
    for number, tile in enumerate(tiles):
        left = MARGIN + number * (TILE_WIDTH + GAP)
        band[:height, left : left + TILE_WIDTH] = tile
    put_text(band, row.caption, MARGIN, height + 11 + TEXT_CAP, TEXT_CAP, QUIET)
    return band
