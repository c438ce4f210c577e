"""Where the sun does not reach the ground."""

from __future__ import annotations

import cv2
import numpy as np

from edgeseg.runtime.street.facades import Facade
from edgeseg.runtime.street.meshes import MESHES
from edgeseg.runtime.street.style import Light, Style
from edgeseg.runtime.street.textures import Bytes
from edgeseg.runtime.street.things import Car, Cyclist, Lot, Pole, Thing, Tree, Walker
from edgeseg.runtime.street.view import NEAR_M, Points, View

_REACH_M = 70.0
"""Shadows are drawn up to this distance."""
_TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)


def cast_shadows(
    view: View, style: Style, light: Light, facades: tuple[Facade, ...], things: list[tuple[float, Thing]]
) -> Bytes:
    """Draw the ground's shadows as a mask (H, W) uint8, 255 in shadow."""
    mask = np.zeros((view.height, view.width), dtype=np.uint8)
    outlines = []
    for carried, thing in things:
        z = thing.z + carried
        if not -12 < view.depth(z) < _REACH_M:
            continue
        outline = _outline(thing, z, light.shadow_per_m, facades, style.frontage_m)
        if outline is None or outline[:, 1].max() < view.z_m + NEAR_M:
            continue
        outlines.append(outline)
    if not outlines:
        return mask
    s, z_all = np.concatenate(outlines).T
    pixels = view.project(np.stack([style.bend.centres(z_all) + s, np.zeros(len(s)), z_all], axis=1))
    start = 0
    for outline in outlines:
        cv2.fillConvexPoly(mask, pixels[start : start + len(outline)], 255)
        start += len(outline)
    return mask


def _outline(thing: Thing, z: float, per_m: float, facades: tuple[Facade, ...], frontage_m: float) -> Points | None:
    """The shadow's outline (N, 2) of (s, z), convex, or None."""
    if isinstance(thing, Lot):
        if thing.facade is None or thing.side * per_m >= 0:
            return None
        s = thing.side * frontage_m
        tip = s + per_m * facades[thing.facade].height_m
        return np.array([[s, z], [tip, z], [tip, thing.end], [s, thing.end]])
    if isinstance(thing, Car):
        mesh = MESHES[thing.mesh]
        half, long = 0.5 * mesh.width_m + 0.05, 0.5 * mesh.length_m + 0.1
        reach = per_m * mesh.height_m * 0.8
        left, right = thing.s - half + min(0.0, reach), thing.s + half + max(0.0, reach)
        return np.array([[left, z - long], [right, z - long], [right, z + long], [left, z + long]])
    if isinstance(thing, Tree):
        middle, radius = thing.s + per_m * 0.6 * thing.height, 0.33 * thing.height
        return np.stack([middle + radius * np.sin(_TURN), z + radius * np.cos(_TURN)], axis=1)
    if isinstance(thing, (Walker, Cyclist)):
        middle, across, along = (
            thing.s + 0.7 * per_m,
            0.3 + 0.7 * abs(per_m),
            0.22 if isinstance(thing, Walker) else 0.7,
        )
        return np.stack([middle + across * np.sin(_TURN), z + along * np.cos(_TURN)], axis=1)
    if isinstance(thing, Pole):
        tip = thing.s + per_m * thing.height
        return np.array([[thing.s, z - 0.08], [tip, z - 0.08], [tip, z + 0.08], [thing.s, z + 0.08]])
    return None
