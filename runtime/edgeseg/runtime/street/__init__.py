"""The built-in street camera: a moving street scene whose truth is known for every pixel.

A dash camera drives down a made-up English town street. Everything is drawn, far to near, from the seed, with the
classes of CamVid as truth. It stands in for a camera in the demo, in fault tests and in soaks, its frames are the
golden frames of bundles, and it adds frames to training.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import Image, Mask
from edgeseg.runtime.street.canvas import Canvas
from edgeseg.runtime.street.facades import facade
from edgeseg.runtime.street.ground import Ground
from edgeseg.runtime.street.labels import STREET_CLASSES, STREET_IGNORE, STREET_PALETTE
from edgeseg.runtime.street.paint import Assets, Painter
from edgeseg.runtime.street.shadows import cast_shadows
from edgeseg.runtime.street.style import Light, light_at, style_of
from edgeseg.runtime.street.textures import fence, sky, skyline, speckle, tree
from edgeseg.runtime.street.things import FACADES, FENCES, RAILS, TREES, Car, Lot, Panel, Thing
from edgeseg.runtime.street.view import FAR_M, View
from edgeseg.runtime.street.world import World

__all__ = ["STREET_CLASSES", "STREET_IGNORE", "STREET_PALETTE", "StreetCamera"]

_LEAVES = (
    (46, 84, 66),
    (52, 92, 84),
    (58, 76, 60),
    (60, 84, 96),
    (44, 70, 52),
    (84, 92, 100),
    (78, 86, 96),
    (90, 96, 98),
)
_BARE_FROM = 5  # the last textures are trees in winter
_SKYLINE_M = 8.0
_SKYLINE_TEXELS = (56, 2048)
_SIDE_WEIGHT = 1.5
_BEHIND_FRONT_M = 12.0
_NOISE_STEPS = 64
_NOISE_LEVEL = 6
_MIDDLE_GREY = 0.42


class StreetCamera:
    """A camera whose frame `index` is the street at index / fps seconds."""

    def __init__(self, *, size_hw: tuple[int, int] = (480, 640), fps: float = 25.0, seed: int = 0) -> None:
        """Make up the street of `seed` (0 or more) and paint its textures.

        `size_hw` is at least 32 x 32 pixels. Raises `SourceError` for another size, fps or seed.
        """
        if min(size_hw) < 32 or max(size_hw) > 8192:
            raise SourceError(f"a street of {size_hw[0]} x {size_hw[1]} pixels", expected="32 to 8192 either way")
        if not (math.isfinite(fps) and fps > 0):
            raise SourceError(f"a street at {fps} frames a second", expected="more than 0")
        if seed < 0:
            raise SourceError(f"a street of seed {seed}", expected="0 or more")
        self.size_hw, self.fps, self.seed = size_hw, fps, seed
        rng = np.random.default_rng((seed, 0))
        self._style = style_of(rng, seed)
        self._world = World(self._style, seed)
        self._assets = Assets(
            facades=tuple(facade(rng) for _ in range(FACADES)),
            fences=tuple(fence(rng, 2 if number >= RAILS else number % 2) for number in range(FENCES)),
            trees=tuple(tree(rng, _LEAVES[number], number >= _BARE_FROM) for number in range(TREES)),
        )
        self._ground = Ground(self._style, rng)
        height, width = size_hw
        self._focal_px = float(max(width, round(height * 4 / 3)))
        weather = self._style.weather
        self._sky = sky(rng, round(0.64 * height), 2 * width, weather.top, weather.low, weather.cloud, weather.cover)
        self._skyline = skyline(rng, *_SKYLINE_TEXELS)
        grain = speckle(rng, height + _NOISE_STEPS, width + _NOISE_STEPS)[..., None] + 0.5 * np.stack(
            [speckle(rng, height + _NOISE_STEPS, width + _NOISE_STEPS) for _ in range(3)], axis=2
        )
        self._grain = np.clip(_NOISE_LEVEL * (1.5 + grain), 0, 255).astype(np.uint8)
        self._grain_mean = np.full((height, width, 3), round(1.5 * _NOISE_LEVEL), dtype=np.uint8)

    def render(self, index: int) -> tuple[Image, Mask]:
        """Draw frame `index` (0 or more): image (H, W, 3) uint8 BGR and truth (H, W) uint8 class indices.

        The same bytes come whatever was drawn before. Both arrays are the caller's. Raises `SourceError` for a
        negative index.
        """
        if index < 0:
            raise SourceError(f"frame {index} of the street", expected="0 or more")
        time_s = index / self.fps
        view, light = self._view(time_s), light_at(self._style, time_s)
        canvas = Canvas(height=self.size_hw[0], width=self.size_hw[1], light=light)
        things = self._things(view, time_s)
        self._draw_sky(canvas, view, time_s)
        self._ground.draw(canvas, view, cast_shadows(view, self._style, light, self._assets.facades, things))
        self._draw_skyline(canvas, view)
        painter = Painter(canvas=canvas, view=view, style=self._style, assets=self._assets, time_s=time_s)
        for carried, thing in things:
            painter.draw(thing, carried)
        return self._expose(canvas, light, index), cv2.extractChannel(canvas.pixels, 3).astype(np.uint8)

    def _view(self, time_s: float) -> View:
        """The camera keeps to its lane, with a little sway and nodding."""
        style = self._style
        z = style.speed_mps * time_s + 1.5 * math.sin(0.31 * time_s)
        height, width = self.size_hw
        nod = 0.0035 * math.sin(6.1 * time_s) + 0.0025 * math.sin(2.3 * time_s)
        return View(
            height=height,
            width=width,
            focal_px=self._focal_px,
            x_m=style.bend.centre(z) + style.lane_m + 0.12 * math.sin(0.7 * time_s),
            z_m=z,
            heading=style.bend.slope(z + 6.0) + 0.012 * math.sin(0.43 * time_s),
            horizon_px=(0.52 + nod) * height,
        )

    def _things(self, view: View, time_s: float) -> list[tuple[float, Thing]]:
        """All things to draw, far to near."""
        things = self._world.things(view.z_m, time_s)
        gap = 27 + 9 * math.sin(0.13 * time_s + self._style.sun_phase)
        lead = Car(s=self._style.lane_m - 0.1, z=view.z_m + gap, facing=1, mesh=self.seed % 4, colour=(92, 60, 44))
        things.append((0.0, lead))
        return sorted(things, key=lambda pair: self._remoteness(pair[1], pair[0]), reverse=True)

    def _remoteness(self, thing: Thing, carried_m: float) -> float:
        """Key for drawing far to near.

        Of two things that hide each other the hidden one is farther both along the street and to the side, so any key
        that grows with both puts points in order. Weighing the side more settles it for things that are long: what
        stands on the road goes before what it passes, and fences before gardens.
        """
        if isinstance(thing, Lot):
            return thing.end + _SIDE_WEIGHT * self._style.frontage_m + _BEHIND_FRONT_M
        aside = abs(thing.s - self._style.lane_m)
        if isinstance(thing, Panel):
            return thing.z + thing.length + _SIDE_WEIGHT * aside
        behind = _BEHIND_FRONT_M if abs(thing.s) > self._style.frontage_m + 0.5 else 0.0
        return thing.z + carried_m + _SIDE_WEIGHT * aside + behind

    def _draw_sky(self, canvas: Canvas, view: View, time_s: float) -> None:
        rows = min(len(self._sky), max(0, math.ceil(view.horizon_px) + 1))
        period = self._sky.shape[1] // 2
        start = round(view.heading * view.focal_px + 0.004 * view.focal_px * time_s) % period
        canvas.pixels[:rows] = self._sky[len(self._sky) - rows :, start : start + view.width]

    def _draw_skyline(self, canvas: Canvas, view: View) -> None:
        far = view.z_m + FAR_M
        top, bottom = view.row(_SKYLINE_M, far), view.row(-0.5, far)
        texels_h, texels_w = _SKYLINE_TEXELS
        period = (bottom - top) * texels_w / texels_h
        left = -((view.heading * view.focal_px) % period)
        canvas.card(
            self._skyline, left=left, right=left + 2 * period, top=top, bottom=bottom, distance_m=0.7 * FAR_M, gain=0.9
        )

    def _expose(self, canvas: Canvas, light: Light, index: int) -> Image:
        """Put the picture through lens and sensor: exposure, a slight blur, noise."""
        bend = 1 + np.log(np.array(light.exposure)) / math.log(_MIDDLE_GREY)
        levels = np.linspace(0, 1, 256)[:, None]
        table = np.rint(255 * levels**bend).astype(np.uint8)[None]
        image = cv2.LUT(cv2.cvtColor(canvas.pixels, cv2.COLOR_BGRA2BGR), table)
        image = cv2.GaussianBlur(image, (3, 3), 0.6)
        down, right = (
            int(step) for step in np.random.default_rng((self.seed, 99, index)).integers(_NOISE_STEPS, size=2)
        )
        grain = self._grain[down : down + canvas.height, right : right + canvas.width]
        return np.asarray(cv2.subtract(cv2.add(image, grain), self._grain_mean), dtype=np.uint8)
