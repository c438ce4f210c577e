"""One file per frame: overlays for people, index masks for programs."""

from __future__ import annotations

from pathlib import Path

import cv2

from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Image, Mask, Result
from edgeseg.runtime.overlay import RateMeter, draw_overlay
from edgeseg.runtime.sinks.feed import Feed


class _FolderSink:
    """Writes encoded pictures into a folder under the frames' names, each name once."""

    ending: str
    options: tuple[int, int]

    def __init__(self, spec: str, place: str, feed: Feed) -> None:
        self.spec, self.contract, self.folder = spec, feed.contract, Path(place)
        # A live source numbers its frames, so no name comes twice, and months of names would fill the memory.
        self._names: set[str] | None = None if feed.live else set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SinkError(
                f"folder {place} cannot be made ({error.strerror})", fix=f"name a writable folder after {spec[:6]!r}"
            ) from error

    def _save(self, name: str, picture: Image | Mask) -> None:
        if self._names is not None and name in self._names:
            raise SinkError(
                f"two frames are named {name!r}, so one file in {self.folder} would overwrite the other",
                fix="give the images of the source different stems",
            )
        if self._names is not None:
            self._names.add(name)
        path = self.folder / f"{name}{self.ending}"
        data = cv2.imencode(self.ending, picture, self.options)[1].tobytes()
        try:
            path.write_bytes(data)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise SinkError(
                f"{path} cannot be written ({error.strerror})", fix="free some space or name another folder"
            ) from error

    def close(self) -> None:
        """Nothing to finish: every file is whole once written."""


class ImagesSink(_FolderSink):
    """Overlays as JPEG, named like the frame."""

    ending = ".jpg"
    options = (cv2.IMWRITE_JPEG_QUALITY, 93)

    def __init__(self, spec: str, place: str, feed: Feed) -> None:
        super().__init__(spec, place, feed)
        self._rate = RateMeter()

    def write(self, result: Result) -> None:
        fps = self._rate.tick(result.masked_ns)
        self._save(result.frame.name, draw_overlay(result, self.contract, fps=fps))


class MasksSink(_FolderSink):
    """Class indices as single-channel 8-bit PNG at the source's resolution, named like the frame."""

    ending = ".png"
    options = (cv2.IMWRITE_PNG_COMPRESSION, 3)

    def write(self, result: Result) -> None:
        self._save(result.frame.name, result.mask)
