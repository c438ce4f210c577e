"""What stands and moves in the street, made up from the seed alone.

Standing things belong to chunks of the street, moving ones to cells of streams: a stream is a row of cells that
slides along the street at one speed. Either is drawn from a generator seeded by (seed, kind, number), so any moment
can be looked at without having lived through those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from edgeseg.runtime.street.style import Style
from edgeseg.runtime.street.textures import Bgr
from edgeseg.runtime.street.things import (
    BUS,
    ESTATE,
    FACADES,
    HATCHBACK,
    RAILS,
    SALOON,
    TREES,
    VAN,
    Car,
    Cyclist,
    Lot,
    Panel,
    Pole,
    Sign,
    Thing,
    Tree,
    Walker,
)
from edgeseg.runtime.street.view import FAR_M

CHUNK_M = 24.0
_PARKED = (HATCHBACK, HATCHBACK, SALOON, SALOON, ESTATE, VAN)
_DRIVEN = (HATCHBACK, HATCHBACK, SALOON, SALOON, ESTATE, ESTATE, VAN, BUS)

_BODIES: tuple[Bgr, ...] = (
    (176, 178, 180), (58, 56, 54), (40, 36, 132), (110, 64, 36), (214, 214, 212), (84, 84, 88), (70, 96, 52),
    (150, 132, 92), (34, 32, 34), (70, 52, 96), (120, 160, 176),
)  # fmt: skip
_COATS: tuple[Bgr, ...] = (
    (40, 38, 42), (92, 56, 40), (48, 48, 140), (92, 96, 104), (60, 84, 52), (190, 190, 196), (70, 130, 170),
    (120, 80, 110), (36, 56, 84), (60, 40, 46),
)  # fmt: skip
_SIGNS: tuple[Bgr, ...] = ((150, 74, 30), (60, 110, 40), (40, 40, 170), (40, 170, 220), (210, 210, 210))
_SKINS: tuple[Bgr, ...] = ((150, 176, 214), (112, 140, 190), (70, 96, 142), (52, 68, 100))


def _pick(rng: np.random.Generator, choices: tuple[Bgr, ...]) -> Bgr:
    return choices[int(rng.integers(len(choices)))]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A row of cells sliding along the street."""

    number: int
    speed_mps: float
    cell_m: float
    share: float
    make: Callable[[np.random.Generator, float], Thing]
    """From a generator and z within the cell."""


class World:
    """All things of a seed."""

    def __init__(self, style: Style, seed: int) -> None:
        self._style, self._seed = style, seed
        self._chunk = lru_cache(maxsize=64)(self._make_chunk)
        self._cell = lru_cache(maxsize=2048)(self._make_cell)
        self._streams = self._make_streams()

    def things(self, z_camera: float, time_s: float) -> list[tuple[float, Thing]]:
        """What may be seen from z_camera, each with the metres it has been carried along since time 0."""
        first, last = math.floor(z_camera / CHUNK_M), math.floor((z_camera + FAR_M) / CHUNK_M)
        found = [(0.0, thing) for chunk in range(first, last + 1) for thing in self._chunk(chunk)]
        for stream in self._streams:
            carried = stream.speed_mps * time_s
            low = math.floor((z_camera - carried) / stream.cell_m)
            for cell in range(low, low + math.ceil(0.85 * FAR_M / stream.cell_m)):
                thing = self._cell(stream.number, cell)
                if thing is not None:
                    found.append((carried, thing))
        return found

    def _rng(self, kind: int, number: int) -> np.random.Generator:
        return np.random.default_rng((self._seed, kind, number + 2**40))

    def _make_chunk(self, number: int) -> tuple[Thing, ...]:
        rng = self._rng(1, number)
        start = number * CHUNK_M
        things: list[Thing] = []
        for side in (-1, 1):
            things.extend(self._lots(rng, side, start))
            things.extend(self._furniture(rng, side, start))
            things.extend(self._parked(rng, side, start))
        return tuple(things)

    def _lots(self, rng: np.random.Generator, side: int, start: float) -> Iterator[Thing]:
        middle = start + float(rng.uniform(9, 15))
        for z, end in ((start, middle), (middle, start + CHUNK_M)):
            if rng.random() < self._style.garden_share:
                yield Lot(side=side, z=z, end=end, set_back=0.0, facade=None)
                yield from self._garden(rng, side, z, end)
            else:
                set_back = 0.6 * float(rng.random())
                yield Lot(side=side, z=z, end=end, set_back=set_back, facade=int(rng.integers(FACADES)))

    def _garden(self, rng: np.random.Generator, side: int, z: float, end: float) -> Iterator[Thing]:
        frontage = self._style.frontage_m
        for _ in range(int(rng.integers(2, 5))):
            yield Tree(
                s=side * (frontage + float(rng.uniform(2.0, 8.0))),
                z=float(rng.uniform(z + 1, end)),
                height=float(rng.uniform(5, 9)),
                texture=int(rng.integers(TREES)),
            )
        yield Panel(
            s=side * (frontage + 0.1), z=z, length=end - z, height=float(rng.uniform(1.1, 2.0)),
            texture=int(rng.integers(RAILS)),
        )  # fmt: skip

    def _furniture(self, rng: np.random.Generator, side: int, start: float) -> Iterator[Thing]:
        style = self._style
        kerb = side * (style.road_half_m + 0.45)
        lamp = float(rng.uniform(0, 8))
        grey = int(rng.integers(60, 130))
        yield Pole(
            s=kerb, z=start + lamp, height=float(rng.uniform(6.5, 9)), radius=0.068, arm=float(rng.uniform(0.9, 1.8)),
            colour=(grey, grey + 3, grey),
        )  # fmt: skip
        if rng.random() < 0.55:
            yield Sign(
                s=kerb + side * 0.2, z=start + float(rng.uniform(9, 22)), kind=int(rng.integers(4)),
                height=float(rng.uniform(2.2, 2.9)), size=float(rng.uniform(0.32, 0.5)), colour=_pick(rng, _SIGNS),
            )  # fmt: skip
        for _ in range(int(rng.integers(1, 4))):
            yield Sign(
                s=side * (style.frontage_m - 0.45), z=start + float(rng.uniform(0, 24)), kind=4,
                height=float(rng.uniform(2.9, 3.8)), size=float(rng.uniform(0.4, 0.65)), colour=_pick(rng, _SIGNS),
            )  # fmt: skip
        if rng.random() < style.tree_share:
            yield Tree(
                s=kerb + side * 0.4, z=start + float(rng.uniform(10, 23)), height=float(rng.uniform(4.8, 7.5)),
                texture=int(rng.integers(TREES)),
            )  # fmt: skip
        draw = rng.random()
        if draw < 0.30:  # a guard rail at the kerb
            begin = start + float(rng.uniform(2, 12))
            for index in range(int(rng.integers(3, 6))):
                yield Panel(s=kerb, z=begin + 2 * index, length=2.0, height=1.1, texture=RAILS + index % 2)
        elif draw < 0.75:  # bollards
            begin, colour = start + float(rng.uniform(2, 14)), ((40, 40, 42), (214, 214, 214))[int(rng.integers(2))]
            for index in range(int(rng.integers(2, 6))):
                yield Pole(s=kerb, z=begin + 1.9 * index, height=1.0, radius=0.06, arm=0.0, colour=colour)
        else:
            yield Pole(
                s=side * (style.frontage_m - 0.5), z=start + 12, height=8.5, radius=0.09, arm=0.0, colour=(52, 64, 78)
            )

    def _parked(self, rng: np.random.Generator, side: int, start: float) -> Iterator[Thing]:
        if side < 0 and not self._style.left_parked:
            return
        for slot in range(4):
            if rng.random() < self._style.parked_share * (0.6 if side < 0 else 1.0):
                yield Car(
                    s=side * (self._style.road_half_m - 0.2), z=start + 3 + 6 * slot + float(rng.uniform(-0.5, 0.5)),
                    facing=-side if rng.random() < 0.85 else side, mesh=_PARKED[int(rng.integers(len(_PARKED)))],
                    colour=_pick(rng, _BODIES),
                )  # fmt: skip

    def _make_cell(self, stream: int, cell: int) -> Thing | None:
        rng = self._rng(2 + stream, cell)
        chosen = self._streams[stream]
        if rng.random() >= chosen.share:
            return None
        return chosen.make(rng, (cell + 0.2 + 0.6 * float(rng.random())) * chosen.cell_m)

    def _make_streams(self) -> tuple[Stream, ...]:
        style, number = self._style, 0
        streams = []
        for side in (-1, 1):
            for facing, speed in ((1, 1.35), (-1, -1.2)):
                streams.append(
                    Stream(
                        number=number, speed_mps=speed, cell_m=9.0, share=style.crowd, make=self._walkers(side, facing)
                    )
                )
                number += 1
        streams.append(
            Stream(number=4, speed_mps=style.speed_mps - 2.6, cell_m=19.0, share=0.8, make=self._cyclists(-1))
        )
        streams.append(Stream(number=5, speed_mps=-4.5, cell_m=30.0, share=0.7, make=self._cyclists(1)))
        streams.append(Stream(number=6, speed_mps=-8.0, cell_m=32.0, share=style.traffic_share, make=self._oncoming))
        return tuple(streams)

    def _walkers(self, side: int, facing: int) -> Callable[[np.random.Generator, float], Thing]:
        style = self._style

        def make(rng: np.random.Generator, z: float) -> Thing:
            share = float(rng.uniform(0.28, 0.85))
            return Walker(
                s=side * (style.road_half_m + share * style.pavement_m), z=z, facing=facing,
                turn=float(rng.uniform(-0.6, 0.6)), height=float(rng.uniform(1.5, 1.88)),
                phase=float(rng.uniform(0, 6.28)), coat=_pick(rng, _COATS), trousers=_pick(rng, _COATS),
                skin=_pick(rng, _SKINS),
            )  # fmt: skip

        return make

    def _cyclists(self, side: int) -> Callable[[np.random.Generator, float], Thing]:
        style = self._style
        from_kerb = 1.45 if side > 0 or style.left_parked else 0.7

        def make(rng: np.random.Generator, z: float) -> Thing:
            return Cyclist(
                s=side * (style.road_half_m - from_kerb), z=z, facing=-side,
                turn=float(rng.uniform(-0.12, 0.12)), phase=float(rng.uniform(0, 6.28)), coat=_pick(rng, _COATS),
                trousers=_pick(rng, _COATS), skin=_pick(rng, _SKINS), frame=_pick(rng, _BODIES),
            )  # fmt: skip

        return make

    def _oncoming(self, rng: np.random.Generator, z: float) -> Thing:
        mesh = _DRIVEN[int(rng.integers(len(_DRIVEN)))]
        return Car(s=-self._style.lane_m, z=z, facing=-1, mesh=mesh, colour=_pick(rng, _BODIES))
