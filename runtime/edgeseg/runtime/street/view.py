"""Where the camera is and how it projects: a pinhole looking down the street.

The world is in metres: x to the right, y up from the ground, z along the street. `s` is the distance to the right of
the road's centre line, which itself wanders with z. Small turns of the camera move the vanishing point
instead of rotating the world (a shift of the image plane), so a row of ground pixels has one depth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.int32]

CAMERA_HEIGHT_M = 1.4
NEAR_M = 0.5
"""Nothing is projected from nearer than this."""
FAR_M = 130.0
"""Beyond this the street is a skyline."""
_PIXEL_LIMIT = 32_000  # keeps OpenCV's fixed-point edges far from overflow


@dataclass(frozen=True, kw_only=True)
class Bend:
    """The road's centre line: two sine waves in z."""

    amplitudes_m: tuple[float, float]
    wavelengths_m: tuple[float, float]
    phases: tuple[float, float]

    def centre(self, z: float) -> float:
        """x of the centre line at z, metres."""
        (a, b), (v, w), (p, q) = self.amplitudes_m, self.wavelengths_m, self.phases
        return a * math.sin(math.tau * z / v + p) + b * math.sin(math.tau * z / w + q)

    def centres(self, z: Points) -> Points:
        """`centre` for many z at once."""
        (a, b), (v, w), (p, q) = self.amplitudes_m, self.wavelengths_m, self.phases
        return np.asarray(a * np.sin(math.tau * z / v + p) + b * np.sin(math.tau * z / w + q), dtype=np.float64)

    def slope(self, z: float) -> float:
        """dx/dz of the centre line at z."""
        return self.centre(z + 0.5) - self.centre(z - 0.5)


@dataclass(frozen=True, kw_only=True)
class View:
    """The camera at one instant."""

    height: int
    width: int
    focal_px: float
    x_m: float
    z_m: float
    heading: float
    """Tangent of the angle between the optical axis and z."""
    horizon_px: float

    def sees(self, x: float, z: float, reach_m: float) -> bool:
        """Whether a thing at (x, z) that reaches `reach_m` to either side can be within the picture's columns."""
        scale = self.scale(z)
        middle = (x - self.x_m) * scale - self.heading * self.focal_px
        return abs(middle) < 0.5 * self.width + reach_m * scale

    def depth(self, z: float) -> float:
        """Metres in front of the camera."""
        return z - self.z_m

    def scale(self, z: float) -> float:
        """Pixels for a metre at z."""
        return self.focal_px / max(NEAR_M, z - self.z_m)

    def column(self, x: float, z: float) -> float:
        """Pixel column of (x, z)."""
        return 0.5 * self.width + (x - self.x_m) * self.scale(z) - self.heading * self.focal_px

    def row(self, y: float, z: float) -> float:
        """Pixel row of height y at z."""
        return self.horizon_px + (CAMERA_HEIGHT_M - y) * self.scale(z)

    def project_exact(self, points: Points) -> Points:
        """Pixels (N, 2) float64 of points (N, 3) in metres.

        Points nearer than NEAR_M are moved along z to it, which is exact for edges that run along the street.
        """
        scale = self.focal_px / np.maximum(points[:, 2] - self.z_m, NEAR_M)
        pixels = np.empty((len(points), 2), dtype=np.float64)
        pixels[:, 0] = (0.5 * self.width - self.heading * self.focal_px) + (points[:, 0] - self.x_m) * scale
        pixels[:, 1] = self.horizon_px + (CAMERA_HEIGHT_M - points[:, 1]) * scale
        return pixels

    def project(self, points: Points) -> Pixels:
        """`project_exact` rounded to whole pixels, int32."""
        return whole_pixels(self.project_exact(points))


def whole_pixels(pixels: Points) -> Pixels:
    """Round to int32, within what OpenCV draws safely."""
    return np.minimum(np.maximum(np.rint(pixels), -_PIXEL_LIMIT), _PIXEL_LIMIT).astype(np.int32)
