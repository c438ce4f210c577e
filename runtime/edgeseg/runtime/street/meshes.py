"""Vehicles as convex prisms with flat details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import numpy.typing as npt

from edgeseg.runtime.street.view import Points


class Material(Enum):
    """What a face is made of."""

    BODY = auto()
    GLASS = auto()
    TRIM = auto()
    TYRE = auto()
    HUB = auto()
    LAMP = auto()
    TAIL = auto()
    PLATE_FRONT = auto()
    PLATE_REAR = auto()


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face: its material and how much light it takes."""

    material: Material
    gain: float


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Points (N, 3) about the middle of the vehicle's footprint, front at +z, and its faces in drawing order."""

    points: Points
    corners: npt.NDArray[np.int64]
    """(faces, most corners): indices of points; the last one comes again to fill the row."""
    faces: tuple[Face, ...]
    coarse: int
    """How many of the faces are enough from afar."""
    length_m: float
    width_m: float
    height_m: float


Vertex = tuple[float, float, float]
_MOST = 12


class _Builder:
    def __init__(self) -> None:
        self.points: list[Vertex] = []
        self.corners: list[list[int]] = []
        self.faces: list[Face] = []

    def face(self, vertices: Sequence[Vertex], material: Material, gain: float = 1.0) -> None:
        """Add a face whose corners go clockwise as seen from outside."""
        start = len(self.points)
        self.points.extend(vertices)
        indices = [start + index for index in range(len(vertices))]
        self.corners.append(indices + indices[-1:] * (_MOST - len(indices)))
        self.faces.append(Face(material=material, gain=gain))

    def prism(self, profile: Sequence[tuple[float, float]], half_low: float, half_high: float) -> None:
        """Add a body whose profile (z, y) goes round from the lower rear by the lower front; narrower at the top."""
        low, high = min(y for _, y in profile), max(y for _, y in profile)

        def half(y: float) -> float:
            return half_low + (half_high - half_low) * (y - low) / (high - low)

        count = len(profile)
        for index in range(count):
            (z0, y0), (z1, y1) = profile[index], profile[(index + 1) % count]
            rise = abs(y1 - y0) / max(1e-6, abs(y1 - y0) + abs(z1 - z0))
            gain = 1.18 - 0.26 * rise
            self.face(
                [(-half(y0), y0, z0), (half(y0), y0, z0), (half(y1), y1, z1), (-half(y1), y1, z1)], Material.BODY, gain
            )
        self.face([(half(y), y, z) for z, y in reversed(profile)], Material.BODY, 0.95)
        self.face([(-half(y), y, z) for z, y in profile], Material.BODY, 0.95)

    def across(self, z: float, box: tuple[float, float, float, float], material: Material) -> None:
        """Add an upright rectangle (x0, y0, x1, y1) that faces the rear (z < 0) or the front."""
        x0, y0, x1, y1 = box
        corners = [(x0, y1, z), (x1, y1, z), (x1, y0, z), (x0, y0, z)]
        self.face(corners if z < 0 else corners[::-1], material)

    def beside(self, half: float, outline: Sequence[tuple[float, float]], material: Material) -> None:
        """Add an outline (z, y), going round as a prism's profile does, to both sides."""
        self.face([(half, y, z) for z, y in reversed(outline)], material)
        self.face([(-half, y, z) for z, y in outline], material)

    def mesh(self, *, coarse: int, size: tuple[float, float, float]) -> Mesh:
        return Mesh(
            points=np.array(self.points, dtype=np.float64),
            corners=np.array(self.corners, dtype=np.int64),
            faces=tuple(self.faces),
            coarse=coarse,
            length_m=size[0],
            width_m=size[1],
            height_m=size[2],
        )


def vehicle(
    *,
    size: tuple[float, float, float],
    belt: float,
    bonnet: float,
    cabin: tuple[float, float, float, float],
    wheel: float,
) -> Mesh:
    """A vehicle of (length, width, height) metres.

    `belt` and `bonnet` are the heights of the body below the windows and of the bonnet's front; `cabin` the z of the
    cabin's lower rear, lower front, upper front and upper rear; `wheel` the radius.
    """
    length, width, height = size
    rear, front, half = -length / 2, length / 2, width / 2
    low_rear, low_front, high_front, high_rear = cabin
    high = half - 0.12 * (height - belt) - 0.04
    build = _Builder()
    for z in (rear + 0.12, front - 0.12):  # what is under the body
        build.across(z, (-half + 0.08, 0.1, half - 0.08, 0.34), Material.TRIM)
        build.across(z, (-half + 0.04, 0.0, -half + 0.26, 0.3), Material.TYRE)
        build.across(z, (half - 0.26, 0.0, half - 0.04, 0.3), Material.TYRE)
    lower = [(rear + 0.06, 0.24), (front - 0.08, 0.24), (front, 0.5), (front - 0.1, bonnet), (low_front, belt),
             (low_rear, belt + 0.02), (rear, belt - 0.1), (rear, 0.45)]  # fmt: skip
    build.prism(lower, half - 0.02, half)
    upper = [(low_rear, belt), (low_front, belt), (high_front, height), (high_rear, height)]
    build.prism(upper, half - 0.03, high)
    _glaze(build, upper, (half - 0.03, high))
    build.beside(
        half + 0.005,
        [(rear + 0.1, 0.24), (front - 0.12, 0.24), (front - 0.06, 0.38), (rear + 0.04, 0.38)],
        Material.TRIM,
    )
    coarse = len(build.faces)
    for z in (rear + 0.2 * length, front - 0.19 * length):
        for radius, material in ((wheel, Material.TYRE), (0.58 * wheel, Material.HUB)):
            turn = np.linspace(0, 2 * np.pi, _MOST, endpoint=False)
            ring = [(z + radius * float(np.cos(a)), wheel + radius * float(np.sin(a))) for a in turn]
            build.beside(half + 0.01, ring, material)
    for side in (-1, 1):
        box = sorted((side * (half - 0.3), side * (half - 0.05)))
        build.across(rear - 0.01, (box[0], belt - 0.32, box[1], belt - 0.12), Material.TAIL)
        build.across(
            front + 0.01, (box[0] - side * 0.05, bonnet - 0.2, box[1] - side * 0.05, bonnet - 0.03), Material.LAMP
        )
    build.across(rear - 0.01, (-0.26, 0.52, 0.26, 0.64), Material.PLATE_REAR)
    build.across(front + 0.01, (-0.26, 0.36, 0.26, 0.47), Material.PLATE_FRONT)
    build.across(front + 0.01, (-0.42, 0.5, 0.42, 0.6), Material.TRIM)
    build.across(rear - 0.01, (-half + 0.1, 0.26, half - 0.1, 0.4), Material.TRIM)
    return build.mesh(coarse=coarse, size=size)


def _glaze(build: _Builder, upper: Sequence[tuple[float, float]], halves: tuple[float, float]) -> None:
    """Put windows on the cabin: windscreen, rear window and two on each side."""
    (z0, low), (z1, _), (z2, high), (z3, _) = upper

    def at(start: float, end: float, share: float) -> float:
        return start + (end - start) * share

    for foot, top in ((z0, z3), (z1, z2)):
        y = (at(low, high, 0.1), at(low, high, 0.86))
        z = (at(foot, top, 0.1), at(foot, top, 0.86))
        x = (at(*halves, 0.1) - 0.09, at(*halves, 0.86) - 0.09)
        out = -0.01 if foot == z0 else 0.01
        corners = [
            (-x[1], y[1], z[1] + out), (x[1], y[1], z[1] + out), (x[0], y[0], z[0] + out), (-x[0], y[0], z[0] + out),
        ]  # fmt: skip
        build.face(corners if foot == z0 else corners[::-1], Material.GLASS)
    y0, y1 = at(low, high, 0.14), at(low, high, 0.84)
    rear, front = (at(z0, z3, 0.14), at(z0, z3, 0.84)), (at(z1, z2, 0.14), at(z1, z2, 0.84))
    for start, end in ((0.06, 0.47), (0.53, 0.95)):
        outline = [
            (at(rear[0], front[0], start), y0), (at(rear[0], front[0], end), y0),
            (at(rear[1], front[1], end), y1), (at(rear[1], front[1], start), y1),
        ]  # fmt: skip
        for side in (1, -1):
            low_x, high_x = (side * (at(*halves, share) + 0.01) for share in (0.14, 0.84))
            ring = [(low_x if y == y0 else high_x, y, z) for z, y in outline]
            build.face(ring[::-1] if side == 1 else ring, Material.GLASS)


MESHES: tuple[Mesh, ...] = (
    vehicle(size=(3.9, 1.7, 1.46), belt=0.92, bonnet=0.74, cabin=(-1.85, 1.0, 0.25, -1.35), wheel=0.3),
    vehicle(size=(4.5, 1.76, 1.42), belt=0.92, bonnet=0.72, cabin=(-1.6, 1.1, 0.4, -0.95), wheel=0.31),
    vehicle(size=(4.4, 1.8, 1.62), belt=1.0, bonnet=0.82, cabin=(-2.1, 1.05, 0.45, -1.8), wheel=0.33),
    vehicle(size=(5.2, 1.95, 2.25), belt=1.2, bonnet=0.95, cabin=(-2.55, 1.8, 1.15, -2.5), wheel=0.35),
    vehicle(size=(9.5, 2.5, 3.0), belt=1.25, bonnet=1.15, cabin=(-4.7, 4.6, 4.5, -4.6), wheel=0.48),
)
"""Hatchback, saloon, estate, van, bus."""
