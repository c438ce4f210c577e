"""People on foot and on bicycles: skeletons of thick strokes, posed by time."""

from __future__ import annotations

import math

import numpy as np

from edgeseg.runtime.street.canvas import Canvas, Paint
from edgeseg.runtime.street.labels import Label
from edgeseg.runtime.street.things import Cyclist, Walker
from edgeseg.runtime.street.view import Pixels, Points, View

_STEPS_PER_S = 1.9 * math.pi
_PEDALS_PER_S = 2.2 * math.pi
_SPOKES = 14
_ARMS_M = 40.0
"""Arms are not told from coats beyond this."""


def _placed(local: Points, turn: float, at: tuple[float, float], view: View) -> Pixels:
    """Turn local points (x right, y up, z forward) about the upright axis, put them at (x, z) and project them."""
    cosine, sine = math.cos(turn), math.sin(turn)
    points = np.empty_like(local)
    points[:, 0] = at[0] + cosine * local[:, 0] + sine * local[:, 2]
    points[:, 1] = local[:, 1]
    points[:, 2] = at[1] - sine * local[:, 0] + cosine * local[:, 2]
    return view.project(points)


def draw_walker(canvas: Canvas, view: View, walker: Walker, at: tuple[float, float], time_s: float) -> None:
    """Draw a pedestrian in mid-step."""
    depth, size = view.depth(at[1]), walker.height / 1.75
    swing = math.sin(_STEPS_PER_S * time_s + walker.phase)
    lift = math.cos(_STEPS_PER_S * time_s + walker.phase)
    joints = []
    for side in (-1, 1):
        stride = side * swing
        raised = max(0.0, side * lift)
        joints += [
            (side * 0.09, 0.88, 0.0),
            (side * 0.10, 0.48 + 0.04 * raised, 0.20 * stride + 0.10 * raised),
            (side * 0.10, 0.06 + 0.14 * raised, 0.36 * stride - 0.06 * raised),
            (side * 0.22, 1.40, 0.0),
            (side * 0.27, 1.12, -0.14 * stride),
            (side * 0.26, 0.86, -0.26 * stride + 0.08),
        ]
    joints += [(-0.23, 1.44, 0), (0.23, 1.44, 0), (0.19, 0.84, 0), (-0.19, 0.84, 0), (0, 1.62, 0.02), (0, 1.66, -0.02)]
    turn = walker.turn + (0.0 if walker.facing > 0 else math.pi)
    px = _placed(np.array(joints, dtype=np.float64) * size, turn, at, view)
    scale = view.scale(at[1]) * size
    gain = canvas.light.facing + 0.05

    def paint(colour: tuple[int, int, int], share: float = 1.0) -> Paint:
        return canvas.paint(colour, Label.PEDESTRIAN, depth, gain * share)

    for side, share in ((0, 0.85), (6, 1.0)):
        canvas.stroke(px[side : side + 3], 0.15 * scale, paint(walker.trousers, share))
    canvas.convex(px[12:16], paint(walker.coat))
    canvas.stroke(px[12:14], 0.12 * scale, paint(walker.coat))
    for side, share in ((3, 0.8), (9, 0.92)) if depth < _ARMS_M else ():
        canvas.stroke(px[side : side + 3], 0.11 * scale, paint(walker.coat, share))
    hair = (34, 40, 52)
    if walker.facing > 0:
        canvas.disc(px[16], 0.115 * scale, paint(hair))
    else:
        canvas.disc(px[17], 0.125 * scale, paint(hair))
        canvas.disc(px[16], 0.10 * scale, paint(walker.skin))


def draw_cyclist(canvas: Canvas, view: View, cyclist: Cyclist, at: tuple[float, float], time_s: float) -> None:
    """Draw a bicycle and its rider, pedalling."""
    depth, scale = view.depth(at[1]), view.scale(at[1])
    pedal = _PEDALS_PER_S * time_s + cyclist.phase
    ring = np.linspace(0, 2 * math.pi, _SPOKES)
    wheels = [
        np.stack([np.zeros(_SPOKES), 0.34 + 0.33 * np.sin(ring), middle + 0.33 * np.cos(ring)], axis=1)
        for middle in (-0.52, 0.52)
    ]
    legs = []
    for side in (-1, 1):
        rise, reach = (
            0.17 * math.sin(pedal + (side + 1) * math.pi / 2),
            0.17 * math.cos(pedal + (side + 1) * math.pi / 2),
        )
        legs += [(side * 0.10, 0.98, -0.2), (side * 0.13, 0.68 + 0.6 * rise, 0.2), (side * 0.11, 0.3 + rise, reach)]
    arms = [(-0.22, 1.36, 0.12), (-0.29, 1.14, 0.3), (-0.22, 1.02, 0.48)]
    body = [(-0.2, 1.44, 0.14), (0.2, 1.44, 0.14), (0.17, 0.92, -0.24), (-0.17, 0.92, -0.24)]
    tubes = [(0, 0.34, -0.52), (0, 0.92, -0.22), (0, 0.30, 0.0), (0, 0.85, 0.4), (0, 0.34, 0.52), (0, 1.02, 0.44)]
    bars = [(-0.27, 1.02, 0.46), (0.27, 1.02, 0.46), (0, 1.62, 0.22), (0, 1.67, 0.2)]
    local = np.concatenate(
        [*wheels, np.array(legs + arms + [(-x, y, z) for x, y, z in arms] + body + tubes + bars, dtype=np.float64)]
    )
    turn = cyclist.turn + (0.0 if cyclist.facing > 0 else math.pi)
    px = _placed(local, turn, at, view)
    first = 2 * _SPOKES
    gain = canvas.light.facing + 0.05

    def paint(colour: tuple[int, int, int], share: float = 1.0) -> Paint:
        return canvas.paint(colour, Label.BICYCLIST, depth, gain * share)

    rubber, coat = paint((30, 30, 30)), paint(cyclist.coat)
    order = (1, 0) if cyclist.facing > 0 else (0, 1)
    canvas.stroke(px[order[0] * _SPOKES : (order[0] + 1) * _SPOKES], 0.07 * scale, rubber)
    canvas.stroke(px[first + 16 : first + 22], 0.06 * scale, paint(cyclist.frame))
    canvas.stroke(px[first + 22 : first + 24], 0.05 * scale, rubber)
    for leg, share in ((0, 0.85), (3, 1.0)):
        canvas.stroke(px[first + leg : first + leg + 3], 0.15 * scale, paint(cyclist.trousers, share))
    canvas.stroke(px[order[1] * _SPOKES : (order[1] + 1) * _SPOKES], 0.07 * scale, rubber)
    for arm in (6, 9):
        canvas.stroke(px[first + arm : first + arm + 3], 0.10 * scale, paint(cyclist.coat, 0.85))
    canvas.convex(px[first + 12 : first + 16], coat)
    canvas.stroke(px[first + 12 : first + 14], 0.12 * scale, coat)
    canvas.disc(px[first + 24], 0.115 * scale, paint(cyclist.skin))
    if cyclist.facing > 0:
        canvas.disc(px[first + 25], 0.13 * scale, paint(cyclist.frame))
