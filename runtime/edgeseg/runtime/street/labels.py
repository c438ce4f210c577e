"""CamVid's eleven classes: what the street's truth is written in."""

from __future__ import annotations

from enum import IntEnum


class Label(IntEnum):
    """Class indices, in CamVid's order."""

    SKY = 0
    BUILDING = 1
    POLE = 2
    ROAD = 3
    PAVEMENT = 4
    TREE = 5
    SIGN = 6
    FENCE = 7
    CAR = 8
    PEDESTRIAN = 9
    BICYCLIST = 10


STREET_CLASSES: tuple[str, ...] = tuple(label.name.lower() for label in Label)
"""Names in order of index."""

STREET_PALETTE: tuple[tuple[int, int, int], ...] = (
    (128, 128, 128),
    (128, 0, 0),
    (192, 192, 128),
    (128, 64, 128),
    (60, 40, 222),
    (128, 128, 0),
    (192, 128, 128),
    (64, 64, 128),
    (64, 0, 128),
    (64, 64, 0),
    (0, 128, 192),
)
"""CamVid's colours, RGB, in order of index."""

STREET_IGNORE = 11
"""CamVid's unlabelled index. The street leaves no pixel unlabelled."""
