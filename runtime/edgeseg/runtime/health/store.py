"""A folder of frames with their masks that never exceeds its bytes: the oldest go. It is a dataset as it stands.

    images/000000012-camera-1-frame-004711.png      the frame, lossless
    masks/000000012-camera-1-frame-004711.png       what the network made of it, class indices
    why/000000012-camera-1-frame-004711.json        why it was kept
    dataset.toml                                    classes, for `edgeseg data check` and `edgeseg train`

Each file appears whole or not at all, an image after its mask and its reason, and goes before them: whatever cuts
the power, an image that is there has both. Frames are numbered on after a restart, so no clock decides what is oldest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.files import write_bytes
from edgeseg.runtime.frame import Image, Mask

_NUMBERED = re.compile(r"(\d{9})-.+")
_PARTS = {"why": ".json", "masks": ".png", "images": ".png"}
"""Folder -> ending, in the order in which they are written."""
_PNG_LEVEL = (cv2.IMWRITE_PNG_COMPRESSION, 3)


class FrameStore:
    """Frames on disk. For one thread."""

    def __init__(self, folder: Path, *, max_bytes: int, contract: Contract) -> None:
        """Take over `folder` with what an earlier run left there, and remove what it left half done.

        Raises `SinkError` if it cannot be written, or holds frames of other classes.
        """
        self.folder, self.max_bytes = folder, max_bytes
        try:
            for part in _PARTS:
                (folder / part).mkdir(parents=True, exist_ok=True)
            self._claim(contract)
            self._remove_halves()
            self._sizes = {name: self._size(name) for name in sorted(self._names("images"))}
        except OSError as error:
            raise SinkError(
                f"{folder} cannot be used ({error.strerror})", fix="give --hard-frames a folder that can be written"
            ) from error
        self._next = 1 + max((int(name[:9]) for name in self._sizes), default=-1)
        self._shrink(max_bytes)

    @property
    def frames(self) -> int:
        """How many frames are there."""
        return len(self._sizes)

    @property
    def bytes(self) -> int:
        """How many bytes their files have."""
        return sum(self._sizes.values())

    def save(self, name: str, image_bgr: Image, mask: Mask, why: Mapping[str, Any]) -> bool:
        """Keep a frame with its mask and reason, and let the oldest go for it. `name` becomes part of its files'.

        Returns False, keeping nothing, if it alone is larger than the folder may be. Raises `OSError` if it cannot be
        written; nothing of it is left then.
        """
        data = {
            "why": (json.dumps(dict(why), indent=2, allow_nan=False) + "\n").encode(),
            "masks": cv2.imencode(".png", mask, _PNG_LEVEL)[1].tobytes(),
            "images": cv2.imencode(".png", image_bgr, _PNG_LEVEL)[1].tobytes(),
        }
        size = sum(map(len, data.values()))
        if size > self.max_bytes:
            return False
        self._shrink(self.max_bytes - size)
        numbered = f"{self._next:09d}-{name}"
        try:
            for part in _PARTS:
                write_bytes(self._path(part, numbered), data[part])
        except OSError:
            self._remove(numbered)
            raise
        self._next += 1
        self._sizes[numbered] = size
        return True

    def _shrink(self, limit: int) -> None:
        used = self.bytes
        for name in list(self._sizes):
            if used <= limit:
                return
            self._remove(name)
            used -= self._sizes.pop(name)

    def _remove(self, name: str) -> None:
        for part in reversed(_PARTS):
            self._path(part, name).unlink(missing_ok=True)

    def _remove_halves(self) -> None:
        for part in _PARTS:
            for partial in (self.folder / part).glob(".*.partial.*"):
                partial.unlink(missing_ok=True)
        whole = self._names("images")
        for part in ("masks", "why"):
            for name in self._names(part) - whole:
                self._remove(name)

    def _claim(self, contract: Contract) -> None:
        path, text = self.folder / "dataset.toml", _describe(contract)
        if not path.exists():
            write_bytes(path, text.encode())
        elif path.read_text(encoding="utf-8", errors="replace") != text:
            raise SinkError(
                f"{path} is of another network's classes, or was edited",
                fix="name an empty folder, or move those frames away",
            )

    def _names(self, part: str) -> set[str]:
        found = (path for path in (self.folder / part).iterdir() if path.suffix == _PARTS[part])
        return {path.stem for path in found if _NUMBERED.fullmatch(path.stem)}

    def _size(self, name: str) -> int:
        paths = (self._path(part, name) for part in _PARTS)
        return sum(path.stat().st_size for path in paths if path.exists())

    def _path(self, part: str, name: str) -> Path:
        return self.folder / part / f"{name}{_PARTS[part]}"


def _describe(contract: Contract) -> str:
    """Return the dataset.toml of frames with this contract's classes."""
    return (
        "# Frames that a run found hard. The masks are the network's own: correct them before training.\n"
        f'name = "hard-frames"\nignore_index = {contract.ignore_index}\n'
        f"classes = {json.dumps(contract.classes)}\npalette = {json.dumps(contract.palette)}\n"
        '[splits.train]\nimages = "images"\nmasks = "masks"\n'
    )
