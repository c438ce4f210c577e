"""Colours for classes that come without."""

from __future__ import annotations

from collections.abc import Sequence

from edgeseg.runtime.image_files import Rgb


def voc_colours(count: int) -> tuple[Rgb, ...]:
    """Return Pascal VOC's first `count` colours, black first: the index's bits, dealt to red, green, blue in turn from
    the highest bit of each down. All 256 differ.
    """
    colours = []
    for index in range(count):
        levels = [sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        colours.append((levels[0], levels[1], levels[2]))
    return tuple(colours)


def palette(colours: Sequence[Rgb | None], count: int) -> tuple[Rgb, ...]:
    """Return `colours` if they are `count` different ones, else Pascal VOC's."""
    given = [colour for colour in colours if colour is not None]
    return tuple(given) if len(given) == len(set(given)) == count else voc_colours(count)
