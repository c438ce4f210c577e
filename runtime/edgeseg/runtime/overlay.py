"""The picture a person looks at: class colours over the frame, a legend and a line of figures.

Everything is drawn with OpenCV's own font, so it looks alike on a desktop and on a device. Hershey letters are coarse
at the few pixels a legend has, so text is drawn four times too large, averaged down and kept: most strings return.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Image, Mask, Result

FRAME_WEIGHT, CLASS_WEIGHT = 0.58, 0.47
"""What frame and class colour add to a pixel; together above 1, as palettes tend to be darker than streets."""
BORDER_WEIGHT = 0.5
"""Brightness left on the border between two classes."""
PANEL_WEIGHT = 0.66
"""Share of the panel's near-black in a pixel under a legend."""

Colour = tuple[int, int, int]
PANEL: Colour = (26, 22, 20)
WHITE: Colour = (255, 255, 255)
SOFT: Colour = (208, 204, 200)

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_OVERSAMPLE = 4
_CAP_AT_SCALE_1 = 22
"""Pixels of a Hershey capital at font scale 1."""


class RateMeter:
    """Results per second over the last two seconds."""

    WINDOW_NS = 2_000_000_000

    def __init__(self) -> None:
        self._ticks: deque[int] = deque()

    def tick(self, now_ns: int) -> float | None:
        """Count one result at `now_ns` (monotonic). Returns the rate in 1/s, None until there are two."""
        ticks = self._ticks
        ticks.append(now_ns)
        while len(ticks) > 2 and now_ns - ticks[0] > self.WINDOW_NS:
            ticks.popleft()
        elapsed_ns = ticks[-1] - ticks[0]
        return (len(ticks) - 1) * 1e9 / elapsed_ns if elapsed_ns > 0 else None


def draw_overlay(result: Result, contract: Contract, *, fps: float | None) -> Image:
    """Draw a result for people. Returns a new (H, W, 3) uint8 BGR image of the frame's size; the frame stays as it was.

    Pixels without a class keep the frame's colours, except under the legend (bottom left) and the figures (top left).
    Each of the two takes at most half of the width and half of the height. `fps` is left out where it is None.
    """
    canvas = blend_classes(result.frame.image_bgr, result.mask, contract)
    height, width = canvas.shape[:2]
    layout = _Layout.of(height, width)
    figures = [
        *([f"{fps:.1f} fps"] if fps is not None else []),
        f"age {result.frame_age_ms:.0f} ms",
        f"inference {result.inference_ms:.0f} ms",
        f"frame {result.frame.id}",
    ]
    _draw_figures(canvas, figures, layout)
    _draw_legend(canvas, class_shares(result.mask, contract), contract, layout)
    return canvas


def blend_classes(image_bgr: Image, mask: Mask, contract: Contract) -> Image:
    """Colour `image_bgr` (H, W, 3) by `mask` (H, W), with thin darker borders between classes.

    Returns a new image. Pixels whose index is no class (the ignore index among them) are copied unchanged.
    """
    colours = cv2.applyColorMap(mask, _colour_map(contract))
    blended = cv2.addWeighted(image_bgr, FRAME_WEIGHT, colours, CLASS_WEIGHT, 0, dst=colours)
    # Two pixels of border (one each side) from about 720 lines up, else one.
    kernel = np.ones((3, 3) if min(mask.shape) >= 600 else (2, 2), np.uint8)
    border = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, kernel)
    cv2.copyTo(cv2.convertScaleAbs(blended, alpha=BORDER_WEIGHT), border, blended)
    no_class = cv2.threshold(mask, len(contract.classes) - 1, 255, cv2.THRESH_BINARY)[1]
    cv2.copyTo(image_bgr, no_class, blended)
    return blended  # type: ignore[return-value]


def class_shares(mask: Mask, contract: Contract) -> list[tuple[int, float]]:
    """Classes present in `mask` (H, W) as (index, percent of all pixels), the largest first."""
    counts = cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel()[: len(contract.classes)]
    order = np.argsort(-counts, kind="stable")
    return [(int(i), 100.0 * float(counts[i]) / mask.size) for i in order if counts[i]]


def text_width(text: str, cap_px: int) -> int:
    """Width in pixels of `text` with capitals `cap_px` high."""
    return int(_glyphs(text, cap_px).shape[1])


def put_text(canvas: Image, text: str, left: int, baseline: int, cap_px: int, colour_bgr: Colour) -> None:
    """Write `text` onto `canvas`, capitals `cap_px` high on row `baseline`. Cut at the canvas's border;
    letters beyond ASCII become question marks.
    """
    glyphs = _glyphs(text, cap_px)
    top = max(0, baseline - cap_px - _margin(cap_px))
    target = canvas[top : top + glyphs.shape[0], left : left + glyphs.shape[1]]
    alpha = glyphs[: target.shape[0], : target.shape[1], None].astype(np.uint16)
    target[...] = ((255 - alpha) * target + alpha * np.array(colour_bgr, np.uint16) + 127) // 255


def fill_rounded(canvas: Image, box: tuple[int, int, int, int], radius: int, colour_bgr: Colour, weight: float) -> None:
    """Blend `colour_bgr` into the rounded rectangle `box` (left, top, width, height) of `canvas`."""
    left, top, width, height = box
    target = canvas[top : top + height, left : left + width]
    solid = np.full_like(target, colour_bgr)
    tinted = cv2.addWeighted(target, 1 - weight, solid, weight, 0)
    cv2.copyTo(tinted, _rounded(*target.shape[:2], radius), target)


@lru_cache(maxsize=8)
def _colour_map(contract: Contract) -> Image:
    """Class colours by index, (256, 1, 3) BGR."""
    colours = np.zeros((256, 1, 3), np.uint8)
    colours[: len(contract.palette), 0] = np.array(contract.palette, np.uint8)[:, ::-1]
    return colours


def _margin(cap_px: int) -> int:
    """Room above and below capitals for brackets and descenders."""
    return (cap_px + 1) // 2


@lru_cache(maxsize=1024)
def _glyphs(text: str, cap_px: int) -> Mask:
    """Coverage (h, w) 0..255 of `text`, averaged down from a larger drawing."""
    text = text.encode("ascii", "replace").decode()  # Hershey has no more
    scale = cap_px * _OVERSAMPLE / _CAP_AT_SCALE_1
    # At small sizes a slightly heavier stroke survives the averaging.
    thickness = max(1, round(cap_px * _OVERSAMPLE / 7))
    (width, _), _ = cv2.getTextSize(text, _FONT, scale, thickness)
    margin = _margin(cap_px) * _OVERSAMPLE
    size_hw = (cap_px + 2 * _margin(cap_px), max(1, -(-(width + thickness) // _OVERSAMPLE)))
    large = np.zeros((size_hw[0] * _OVERSAMPLE, size_hw[1] * _OVERSAMPLE), np.uint8)
    origin = (thickness // 2, margin + cap_px * _OVERSAMPLE)
    cv2.putText(large, text, origin, _FONT, scale, 255, thickness, cv2.LINE_AA)
    return cv2.resize(large, size_hw[::-1], interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


@lru_cache(maxsize=64)
def _rounded(height: int, width: int, radius: int) -> Mask:
    """A filled rounded rectangle, 255 inside."""
    shape = np.zeros((height, width), np.uint8)
    radius = min(radius, height // 2, width // 2)
    cv2.rectangle(shape, (radius, 0), (width - 1 - radius, height - 1), 255, -1)
    cv2.rectangle(shape, (0, radius), (width - 1, height - 1 - radius), 255, -1)
    for x in (radius, width - 1 - radius):
        for y in (radius, height - 1 - radius):
            cv2.circle(shape, (x, y), radius, 255, -1)
    return shape


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layout:
    """Measures in pixels, all from the image's shorter side."""

    cap: int
    pad: int
    row: int
    margin: int

    @classmethod
    def of(cls, height: int, width: int) -> _Layout:
        cap = max(6, round(min(height, width) / 52))
        return cls(cap=cap, pad=max(4, round(0.85 * cap)), row=round(1.85 * cap), margin=max(3, round(0.8 * cap)))


def _draw_figures(canvas: Image, figures: Sequence[str], layout: _Layout) -> None:
    """Write the figures in the top left corner, in as many lines as half the width asks for."""
    gap = round(1.4 * layout.cap)
    room = canvas.shape[1] // 2 - layout.margin - 2 * layout.pad
    lines: list[list[str]] = [[]]
    for figure in figures:
        taken = sum(text_width(f, layout.cap) + gap for f in lines[-1])
        if lines[-1] and taken + text_width(figure, layout.cap) > room:
            lines.append([])
        lines[-1].append(figure)
    lines = lines[: max(0, (canvas.shape[0] // 2 - layout.margin - 2 * layout.pad) // layout.row)]
    if not lines or room < text_width(lines[0][0], layout.cap):
        return
    width = max(sum(text_width(f, layout.cap) for f in line) + gap * (len(line) - 1) for line in lines)
    height = layout.row * (len(lines) - 1) + layout.cap
    box = (layout.margin, layout.margin, width + 2 * layout.pad, height + 2 * layout.pad)
    fill_rounded(canvas, box, layout.pad, PANEL, PANEL_WEIGHT)
    for number, line in enumerate(lines):
        left = layout.margin + layout.pad
        baseline = layout.margin + layout.pad + layout.cap + number * layout.row
        for figure in line:
            put_text(canvas, figure, left, baseline, layout.cap, WHITE if figure is figures[0] else SOFT)
            left += text_width(figure, layout.cap) + gap


def _percent(share: float) -> str:
    if share < 0.1:
        return "<0.1%"
    return f"{share:.1f}%" if share < 9.95 else f"{share:.0f}%"


def _draw_legend(canvas: Image, shares: Sequence[tuple[int, float]], contract: Contract, layout: _Layout) -> None:
    """List the classes present in the bottom left corner; those that half the height has no room for are summed."""
    rows_fit = (canvas.shape[0] // 2 - layout.margin - 2 * layout.pad) // layout.row
    rows: list[tuple[Colour | None, str, str]] = [
        (_bgr(contract.palette[i]), contract.classes[i], _percent(share)) for i, share in shares
    ]
    if len(rows) > rows_fit:
        kept = max(0, rows_fit - 1)
        rest = sum(share for _, share in shares[kept:])
        rows = [*rows[:kept], (None, f"{len(rows) - kept} more", _percent(rest))]
    chip, gap = round(1.3 * layout.cap), round(0.8 * layout.cap)
    rim = max(1, chip // 12)
    # Shares are as wide as the widest can be, so that the panel does not jump from frame to frame.
    share_width = max(text_width(text, layout.cap) for text in ("99.9%", "<0.1%"))
    room = canvas.shape[1] // 2 - layout.margin - 2 * layout.pad - chip - 2 * gap - share_width
    if not rows or rows_fit < 1 or room < 2 * layout.cap:
        return
    name_width = min(room, max(text_width(name, layout.cap) for _, name, _ in rows))
    width = chip + gap + name_width + gap + share_width + 2 * layout.pad
    height = layout.row * (len(rows) - 1) + layout.cap + 2 * layout.pad
    left, top = layout.margin, canvas.shape[0] - layout.margin - height
    fill_rounded(canvas, (left, top, width, height), layout.pad, PANEL, PANEL_WEIGHT)
    x = left + layout.pad
    for number, (colour, name, share) in enumerate(rows):
        baseline = top + layout.pad + layout.cap + number * layout.row
        if colour is not None:
            chip_top = baseline - layout.cap - (chip - layout.cap) // 2
            # A light rim, or dark classes would vanish in the dark panel.
            fill_rounded(canvas, (x, chip_top, chip, chip), chip // 4, SOFT, 0.55)
            fill_rounded(canvas, (x + rim, chip_top + rim, chip - 2 * rim, chip - 2 * rim), chip // 5, colour, 1.0)
        name_left = x + chip + gap
        put_text(canvas[:, : name_left + name_width], name, name_left, baseline, layout.cap, WHITE)
        share_left = left + width - layout.pad - text_width(share, layout.cap)
        put_text(canvas, share, share_left, baseline, layout.cap, SOFT)


def _bgr(rgb: Colour) -> Colour:
    return rgb[2], rgb[1], rgb[0]
