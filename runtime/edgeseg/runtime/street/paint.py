"""How each thing of the street is drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgeseg.runtime.street.canvas import Canvas, Paint
from edgeseg.runtime.street.facades import HOUSE_DEPTH_M, Facade
from edgeseg.runtime.street.figures import draw_cyclist, draw_walker
from edgeseg.runtime.street.labels import Label
from edgeseg.runtime.street.meshes import MESHES, Material
from edgeseg.runtime.street.style import Light, Style
from edgeseg.runtime.street.textures import Bgr, Texture
from edgeseg.runtime.street.things import RAILS, Car, Cyclist, Lot, Panel, Pole, Sign, Thing, Tree, Walker
from edgeseg.runtime.street.view import FAR_M, NEAR_M, Pixels, Points, View, whole_pixels

_FINE_M = 42.0
"""Details are left out beyond this."""
_RAIL_M = 60.0
_WINDOWS_M = 85.0
"""Fronts are foreshortened to a few pixels beyond this."""

_SEEN: dict[type[Thing], tuple[float, float, float]] = {
    Tree: (2.0, 150, 4.0),
    Pole: (0.8, 110, 2.7),
    Sign: (0.8, 90, 0.8),
    Walker: (0.8, 75, 0.6),
    Cyclist: (2.3, 110, 0.8),
}
"""Nearest and farthest metres at which a thing is drawn, and its reach to either side."""

_MATERIALS: dict[Material, Bgr] = {
    Material.GLASS: (56, 50, 44),
    Material.TRIM: (38, 36, 36),
    Material.TYRE: (26, 25, 25),
    Material.HUB: (150, 150, 152),
    Material.LAMP: (222, 236, 240),
    Material.TAIL: (36, 30, 190),
    Material.PLATE_FRONT: (226, 226, 226),
    Material.PLATE_REAR: (60, 190, 216),
}


@dataclass(frozen=True, kw_only=True)
class Assets:
    """Textures that things of the world choose from by number."""

    facades: tuple[Facade, ...]
    fences: tuple[Texture, ...]
    trees: tuple[Texture, ...]


@dataclass(frozen=True, kw_only=True)
class Painter:
    """Draws things onto a canvas as seen at one moment."""

    canvas: Canvas
    view: View
    style: Style
    assets: Assets
    time_s: float

    @property
    def light(self) -> Light:
        return self.canvas.light

    def draw(self, thing: Thing, carried_m: float) -> None:
        """Draw one thing, `carried_m` further along the street than where it was made up."""
        z = thing.z + carried_m
        x = self.style.bend.centre(z)
        if isinstance(thing, Lot):
            if thing.facade is not None:
                self._house(thing, self.assets.facades[thing.facade])
        elif isinstance(thing, Panel):
            self._panel(thing)
        elif isinstance(thing, Car):
            self._car(thing, x, z)
        else:
            nearest, farthest, reach = _SEEN[type(thing)]
            if nearest < self.view.depth(z) < farthest and self.view.sees(x + thing.s, z, reach):
                self._upright(thing, (x + thing.s, z))

    def _upright(self, thing: Tree | Pole | Sign | Walker | Cyclist, at: tuple[float, float]) -> None:
        if isinstance(thing, Tree):
            self._tree(thing, at[0])
        elif isinstance(thing, Pole):
            self._pole(thing, at[0])
        elif isinstance(thing, Sign):
            self._sign(thing, at[0])
        elif isinstance(thing, Walker):
            draw_walker(self.canvas, self.view, thing, at, self.time_s)
        else:
            draw_cyclist(self.canvas, self.view, thing, at, self.time_s)

    def _side_gain(self, s: float) -> float:
        return self.light.left if s < 0 else self.light.right

    def _along(self, s: float, span: tuple[float, float], heights: tuple[float, float]) -> tuple[Points, float]:
        """Corners (4, 2) of an upright rectangle along the street, far edge first, and the share cut off in front."""
        start, end = span
        near = max(start, self.view.z_m + NEAR_M)
        low, high = heights
        far_x, near_x = self.style.bend.centre(end) + s, self.style.bend.centre(near) + s
        points = np.array([[far_x, high, end], [near_x, high, near], [near_x, low, near], [far_x, low, end]])
        return self.view.project_exact(points), (near - start) / (end - start)

    def _house(self, lot: Lot, front: Facade) -> None:
        view, light = self.view, self.light
        if view.depth(lot.end) < 1.0:
            return
        s = lot.side * (self.style.frontage_m + lot.set_back)
        back = s + lot.side * HOUSE_DEPTH_M
        ridge_s, ridge = s + lot.side * 0.5 * HOUSE_DEPTH_M, front.ridge_m
        near = max(lot.z, view.z_m + NEAR_M)
        x_near, x_far = self.style.bend.centre(near), self.style.bend.centre(lot.end)
        distance = view.depth(near)
        points = np.array(
            [
                [x_near + ridge_s, ridge, near], [x_far + ridge_s, ridge, lot.end],
                [x_far + s, front.height_m, lot.end], [x_near + s, front.height_m, near],
                [x_near + s, 0, near], [x_near + back, 0, near], [x_near + back, front.height_m, near],
                [x_near + ridge_s - 0.5, ridge - 0.5, near], [x_near + ridge_s + 0.5, ridge + 1.2, near],
                [x_near + s, ridge, near], [x_near + back, ridge, near],
            ]
        )  # fmt: skip
        exact = view.project_exact(points)
        at = whole_pixels(exact)
        if front.pitched:
            roof_gain = 0.5 * (self._side_gain(s) + 1)
            middle = view.depth(0.5 * (near + lot.end))
            if near == lot.z:
                stack = np.array([at[7], [at[8][0], at[7][1]], at[8], [at[7][0], at[8][1]]], dtype=np.int32)
                self.canvas.convex(stack, self.canvas.paint((70, 84, 110), Label.BUILDING, distance, light.facing))
            self.canvas.convex(at[:4], self.canvas.paint(front.roof, Label.BUILDING, middle, roof_gain))
        gable = at[[4, 5, 6, 0, 3]]
        if near == lot.z and distance < _FINE_M:
            self.canvas.wall(exact[[9, 10, 5, 4]], front.gable, outline=gable, distance_m=distance, gain=light.facing)
        elif near == lot.z:
            self.canvas.convex(gable, self.canvas.paint(front.wall, Label.BUILDING, distance, light.facing))
        corners, cut = self._along(s, (lot.z, lot.end), (0.0, front.height_m))
        gain = 1.12 * self._side_gain(s)
        if distance < _WINDOWS_M:
            self.canvas.wall(corners, front.texture, part=(0.0, 1.0 - cut), distance_m=distance, gain=gain)
        else:
            paint = self.canvas.paint(front.tone, Label.BUILDING, distance, gain)
            self.canvas.convex(whole_pixels(corners), paint)

    def _panel(self, panel: Panel) -> None:
        rail = panel.texture >= RAILS  # no more than a haze of bars from afar
        if not 2 * NEAR_M < self.view.depth(panel.z + panel.length) < (_RAIL_M if rail else FAR_M):
            return
        corners, cut = self._along(panel.s, (panel.z, panel.z + panel.length), (0.0, panel.height))
        self.canvas.wall(
            corners,
            self.assets.fences[panel.texture],
            part=(0.0, 1.0 - cut),
            distance_m=self.view.depth(panel.z),
            gain=self._side_gain(panel.s),
        )

    def _tree(self, tree: Tree, x: float) -> None:
        scale, middle = self.view.scale(tree.z), self.view.column(x, tree.z)
        half, foot = 0.4 * tree.height * scale, self.view.row(0, tree.z)
        self.canvas.card(
            self.assets.trees[tree.texture],
            left=middle - half,
            right=middle + half,
            top=foot - tree.height * scale,
            bottom=foot,
            distance_m=self.view.depth(tree.z),
            gain=0.5 * (self._side_gain(tree.s) + self.light.facing) + 0.1,
        )

    def _pole(self, pole: Pole, x: float) -> None:
        depth, scale = self.view.depth(pole.z), self.view.scale(pole.z)
        inward = -math.copysign(pole.arm, pole.s)
        foot, top = x, pole.height
        points = np.array(
            [
                [foot, 0, pole.z],
                [foot, top, pole.z],
                [foot + inward, top + 0.25, pole.z],
                [foot + 1.45 * inward, top + 0.25, pole.z],
            ]
        )
        at = self.view.project(points)
        paint = self.canvas.paint(pole.colour, Label.POLE, depth, self.light.facing)
        thick = 2 * pole.radius * scale
        self.canvas.stroke(at[:2], thick, paint)
        if pole.arm:
            self.canvas.stroke(at[1:3], 0.6 * thick, paint)
            self.canvas.stroke(at[2:], thick, self.canvas.paint((186, 190, 190), Label.POLE, depth))

    def _sign(self, sign: Sign, x: float) -> None:
        depth, scale, label = self.view.depth(sign.z), self.view.scale(sign.z), Label.SIGN
        gain = self.light.facing + 0.1
        foot, at = self.view.project(np.array([[x, 0, sign.z], [x, sign.height, sign.z]]))
        if sign.kind != 4:
            steel = self.canvas.paint((110, 112, 112), Label.POLE, depth, gain)
            self.canvas.stroke(np.array([foot, at]), 0.09 * scale, steel)
        radius = sign.size * scale
        red, white = (
            self.canvas.paint((44, 40, 190), label, depth, gain),
            self.canvas.paint((226,) * 3, label, depth, gain),
        )
        dark = self.canvas.paint((40, 40, 40), label, depth, gain)
        if sign.kind == 0:
            self.canvas.disc(at, radius, red)
            self.canvas.disc(at, 0.7 * radius, white)
            self._board(at, 0.4 * radius, 0.16 * radius, dark)
        elif sign.kind == 1:
            for size, paint in ((1.15, red), (0.72, white), (0.2, dark)):
                reach = size * radius
                corners = at + np.array([[0, -reach], [0.9 * reach, 0.6 * reach], [-0.9 * reach, 0.6 * reach]])
                self.canvas.convex(np.rint(corners).astype(np.int32), paint)
        elif sign.kind == 3:
            self._board(at, 0.55 * radius, 1.25 * radius, dark)
            lit = int(self.time_s / 6 + sign.z) % 3
            for lamp, colour in enumerate(((40, 40, 230), (40, 170, 240), (110, 220, 60))):
                bright = colour if lamp == lit else (colour[0] // 5, colour[1] // 5, colour[2] // 5)
                centre = (int(at[0]), int(at[1] + round((lamp - 1) * 0.75 * radius)))
                self.canvas.disc(centre, 0.3 * radius, self.canvas.paint(bright, label, depth))
        else:
            board = self.canvas.paint(sign.colour, label, depth, gain)
            self._board(at, (1.0 if sign.kind == 2 else 0.8) * radius, 1.1 * radius, white)
            self._board(at, (0.9 if sign.kind == 2 else 0.7) * radius, radius, board)
            for line in (-0.45, 0.0, 0.45) if depth < _FINE_M else ():
                self._board(at + np.array([0, round(line * radius)]), 0.55 * radius, 0.09 * radius, white)

    def _board(self, at: Pixels, half_w: float, half_h: float, paint: Paint) -> None:
        w, h = max(0, round(half_w)), max(0, round(half_h))
        self.canvas.convex((at + np.array([[-w, -h], [w, -h], [w, h], [-w, h]])).astype(np.int32), paint)

    def _car(self, car: Car, x: float, z: float) -> None:
        mesh, depth = MESHES[car.mesh], self.view.depth(z)
        if depth < -0.5 * mesh.length_m or not self.view.sees(x + car.s, z + 0.5 * mesh.length_m, 2 * mesh.width_m):
            return
        count = len(mesh.faces) if depth < _FINE_M else mesh.coarse
        corners = mesh.corners[:count]
        points = mesh.points[: corners.max() + 1] * (car.facing, 1, car.facing)
        points += (x + car.s, 0, z)
        points[:, 0] += self.style.bend.slope(z) * (points[:, 2] - z)
        pixels = self.view.project(points)
        rings = pixels[corners]
        across, down = rings[..., 0].astype(np.int64), rings[..., 1].astype(np.int64)
        area = (across[:, :-1] * down[:, 1:] - across[:, 1:] * down[:, :-1]).sum(axis=1)
        area += across[:, -1] * down[:, 0] - across[:, 0] * down[:, -1]
        side_gain = self._side_gain(-1.0 if x + car.s > self.view.x_m else 1.0)
        for index in np.flatnonzero(area > 0).tolist():
            face = mesh.faces[index]
            colour = _MATERIALS.get(face.material, car.colour)
            self.canvas.convex(rings[index], self.canvas.paint(colour, Label.CAR, depth, face.gain * side_gain))
