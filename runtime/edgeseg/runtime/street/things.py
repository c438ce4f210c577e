"""The things of a street. s and z say where (see `view`), `height`, `length` and `radius` are metres.

Where a thing has a texture, a facade or a mesh, it is the number of one among those the camera has made.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.runtime.street.textures import Bgr

FACADES, FENCES, TREES = 14, 6, 8
"""How many textures of each there are to choose from."""
RAILS = FENCES - 2
"""The last fences are guard rails, two metres long; those before are twelve metres long."""
HATCHBACK, SALOON, ESTATE, VAN, BUS = range(5)


@dataclass(frozen=True, kw_only=True)
class Lot:
    """A house, or a garden behind a fence (facade None), from z to end."""

    side: int
    z: float
    end: float
    set_back: float
    facade: int | None


@dataclass(frozen=True, kw_only=True)
class Tree:
    s: float
    z: float
    height: float
    texture: int


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A stretch of fence along the street."""

    s: float
    z: float
    length: float
    height: float
    texture: int


@dataclass(frozen=True, kw_only=True)
class Pole:
    """A lamp post (arm > 0) or a bollard or thin pole (arm 0)."""

    s: float
    z: float
    height: float
    radius: float
    arm: float
    colour: Bgr


@dataclass(frozen=True, kw_only=True)
class Sign:
    """`kind`: 0 round, 1 triangle, 2 board, 3 traffic light, 4 hanging from a house."""

    s: float
    z: float
    kind: int
    height: float
    size: float
    colour: Bgr


@dataclass(frozen=True, kw_only=True)
class Car:
    s: float
    z: float
    facing: int
    mesh: int
    colour: Bgr


@dataclass(frozen=True, kw_only=True)
class Walker:
    s: float
    z: float
    facing: int
    turn: float
    height: float
    phase: float
    coat: Bgr
    trousers: Bgr
    skin: Bgr


@dataclass(frozen=True, kw_only=True)
class Cyclist:
    s: float
    z: float
    facing: int
    turn: float
    phase: float
    coat: Bgr
    trousers: Bgr
    skin: Bgr
    frame: Bgr


Thing = Lot | Tree | Panel | Pole | Sign | Car | Walker | Cyclist
