"""A folder of images, or a single one."""

from __future__ import annotations

import time
from pathlib import Path

from edgeseg.runtime.errors import DatasetError, SourceError
from edgeseg.runtime.frame import WHITE_LEVEL, Frame, Image
from edgeseg.runtime.image_files import IMAGE_ENDINGS, read_image


class FolderSource:
    """Every image in a folder (not below it), sorted by name; frames are named by their images' stems.

    `path` may also be one image. Images of more than 8 bits are scaled so that `white_level` is white. Raises
    `SourceError` if there is none, if one cannot be decoded, and if two share a stem: what is written of them would be,
    too.
    """

    fps = None
    live = False
    clock = "arrival"

    def __init__(self, path: Path, *, white_level: int = WHITE_LEVEL) -> None:
        paths = sorted(path.iterdir()) if path.is_dir() else [path]
        self._paths = [item for item in paths if item.suffix.lower() in IMAGE_ENDINGS and item.is_file()]
        if not self._paths:
            raise SourceError(f"folder {path} has no images", expected=f"files in {', '.join(sorted(IMAGE_ENDINGS))}")
        stems: dict[str, Path] = {}
        for item in self._paths:
            if item.stem in stems:
                raise SourceError(f"{stems[item.stem].name} and {item.name} share a stem", fix="rename one of them")
            stems[item.stem] = item
        self._white_level = white_level
        height, width = self._read(self._paths[0]).shape[:2]
        self.size_hw = (height, width)
        self._next_id = 0
        self._closed = False

    def read(self) -> Frame | None:
        """Return the next image; None after the last. Raises `SourceError` for one that cannot be decoded."""
        if self._closed or self._next_id == len(self._paths):
            return None
        path = self._paths[self._next_id]
        captured_ns = time.monotonic_ns()
        frame = Frame(image_bgr=self._read(path), id=self._next_id, captured_ns=captured_ns, name=path.stem)
        self._next_id += 1
        return frame

    def close(self) -> None:
        """Give no more images."""
        self._closed = True

    def _read(self, path: Path) -> Image:
        # As evaluation reads it, so that masks written of a folder are those that were scored.
        try:
            return read_image(path, white_level=self._white_level)
        except DatasetError as error:
            raise SourceError(error.found, expected=error.expected, fix="replace or remove the file") from None
