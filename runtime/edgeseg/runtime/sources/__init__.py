"""Where frames come from: one class per kind behind one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgeseg.runtime.errors import SourceError
from edgeseg.runtime.frame import WHITE_LEVEL, Frame
from edgeseg.runtime.sources.url import is_pipeline, redact, scheme_of

__all__ = ["Source", "open_source", "redact"]


class Source(Protocol):
    """Gives frames to one thread. An open source has shown that it can: a frame was decoded."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Of the first frame; later ones may differ."""

    @property
    def fps(self) -> float | None:
        """The nominal rate; None where there is none."""

    @property
    def live(self) -> bool:
        """Whether frames come at their own pace, and the newest matters more than every one."""

    @property
    def clock(self) -> str:
        """Where `captured_ns` comes from: `driver` (the driver's timestamp), `arrival` or `synthetic`."""

    def read(self) -> Frame | None:
        """Wait for the next frame; None at the end and after `close`.

        Raises `SourceError` if it stops giving any, and `CorruptFrameError`, one of its kinds, for a single frame that
        cannot be decoded and takes a number.
        """

    def close(self) -> None:
        """Give the device or file back. Safe to call twice and from any thread; a `read` in progress ends soon."""


_FORMS = (
    "a file, an image folder, a camera number, /dev/videoN, csi://N, rtsp://, http://, udp://, gst:PIPELINE or "
    "synthetic://street"
)


def open_source(url: str, *, white_level: int = WHITE_LEVEL) -> Source:
    """Open what `url` names and decode its first frame.

    A camera may carry its mode: `0?size=1280x720&fps=30`. `white_level` is a contract's, for image files. Raises
    `SourceError`, in one line without credentials, if nothing there gives frames.
    """
    # Imported here, since a run needs only one of them.
    from edgeseg.runtime.image_files import IMAGE_ENDINGS
    from edgeseg.runtime.sources.camera import open_camera
    from edgeseg.runtime.sources.file import FileSource
    from edgeseg.runtime.sources.folder import FolderSource
    from edgeseg.runtime.sources.gstreamer import decodes_rtsp, open_csi, open_pipeline, open_rtsp
    from edgeseg.runtime.sources.stream import STREAM_SCHEMES, open_stream
    from edgeseg.runtime.sources.synthetic import open_synthetic

    scheme = scheme_of(url)
    if scheme == "synthetic":
        return open_synthetic(url)
    if scheme == "csi":
        return open_csi(url)
    if is_pipeline(url):
        return open_pipeline(url)
    if scheme == "rtsp" and decodes_rtsp():
        return open_rtsp(url)
    if scheme in STREAM_SCHEMES:
        return open_stream(url)
    if scheme is not None:
        raise SourceError(f"source {redact(url)} has an unknown scheme", expected=_FORMS)
    if url.partition("?")[0].isdigit() or url.startswith("/dev/"):
        return open_camera(url)
    path = Path(url)
    if path.is_dir():
        return FolderSource(path, white_level=white_level)
    if not path.is_file():
        raise SourceError(f"source {redact(url)} is no file or folder", expected=_FORMS, fix="check the name")
    if path.suffix.lower() in IMAGE_ENDINGS:
        return FolderSource(path, white_level=white_level)
    return FileSource(path)
