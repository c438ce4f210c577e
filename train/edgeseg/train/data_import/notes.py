"""What an import passes over, counted: one line for each kind."""

from __future__ import annotations

import threading
from typing import Any, Literal

Kind = Literal[
    "missing-image",
    "missing-folder",
    "unsafe-name",
    "ambiguous-image",
    "undecodable-image",
    "unreadable-label",
    "other-size",
    "not-listed",
    "listed-twice",
    "no-label",
    "turned",
    "bad-entry",
    "bad-shape",
    "no-area",
    "outside",
    "cut-off",
    "no-surface",
    "unknown-class",
    "alike",
    "no-mask",
    "no-image",
    "resized",
    "soft-label",
    "named-by-value",
    "white-level",
]

MEANING: dict[Kind, str] = {
    "missing-image": "images that the labels name are not there, left out",
    "missing-folder": "folders and lists of images that the labels name are not there",
    "unsafe-name": "image names lead out of the source, left out",
    "ambiguous-image": "image names fit several files, left out",
    "undecodable-image": "images cannot be decoded, left out",
    "unreadable-label": "images have a label that cannot be read, left out",
    "other-size": "images are of another size than their labels, left out",
    "not-listed": "images are in no list, left out",
    "listed-twice": "images are named twice, taken once",
    "no-label": "images have no label, kept as unlabelled",
    "turned": "images turned upright by their EXIF orientation",
    "bad-entry": "entries of the labels are malformed, dropped",
    "bad-shape": "shapes have numbers that cannot be meant, dropped",
    "no-area": "shapes cover no pixel, dropped",
    "outside": "shapes lie outside of their image, dropped",
    "cut-off": "shapes reach out of their image, cut off",
    "no-surface": "points, lines and boxes without an outline, dropped",
    "unknown-class": "shapes of a class that the source does not name, dropped",
    "alike": "images moved between train and val, to be with those nearly the same",
    "no-mask": "images have no mask, left out",
    "no-image": "masks fit no image by name or folder, left out",
    "resized": "masks of their image's shape brought to its size",
    "soft-label": "masks have soft edges, each pixel taken for the nearest class",
    "named-by-value": "classes are called by their value; to name them, import again with --class NAME=VALUE",
    "white-level": "16-bit images use fewer bits, and what is white in them is noted",
}


class Notes:
    """Counts by kind, with the first example of each. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Kind, int] = {}
        self._first: dict[Kind, str] = {}

    def add(self, kind: Kind, example: str) -> None:
        """Count one more of `kind`; the example that sorts first is kept."""
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self._first[kind] = min(self._first.get(kind, example), example)

    def lines(self) -> list[str]:
        """Return one line for each kind, for a person."""
        return [f"{MEANING[kind]}: {count}, first {self._first[kind]}" for kind, count in self._sorted()]

    def commonest(self) -> str:
        """Return the line of the kind that was met most often, empty if there was nothing."""
        most = max(self._counts.values(), default=0)
        return next((line for line, (_, count) in zip(self.lines(), self._sorted(), strict=True) if count == most), "")

    def document(self) -> list[dict[str, Any]]:
        """Return the counts for JSON."""
        return [
            {"kind": kind, "count": count, "meaning": MEANING[kind], "first": self._first[kind]}
            for kind, count in self._sorted()
        ]

    def _sorted(self) -> list[tuple[Kind, int]]:
        return [(kind, self._counts[kind]) for kind in MEANING if kind in self._counts]
