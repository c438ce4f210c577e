"""Everything edgeseg raises on purpose.

EdgesegError                 a user's problem: one line, exit status 1
├── BundleError              a bundle that is incomplete, altered or of another schema
├── DatasetError             a dataset.toml, an image or a mask that cannot be used
│   └── UnreadablePairError  one image with its mask: what a training may pass over
├── FrameError               a frame of the wrong shape or dtype
├── SourceError              a camera, stream or file that gives no frames
├── SinkError                a place that masks cannot be written to
├── BackendError             an engine that is missing or refuses the graph
├── TrainError               a training run that cannot start, go on or resume
└── ExportError              a network that does not survive its own export
"""

from __future__ import annotations


class EdgesegError(Exception):
    """A problem that its reader can mend. `str()` is one line: what was found, what was expected, how to fix it."""

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        parts = [found, f"expected {expected}" if expected else "", f"fix: {fix}" if fix else ""]
        super().__init__(" ".join("; ".join(part for part in parts if part).split()))


class BundleError(EdgesegError):
    """A bundle that is incomplete, altered or of another schema."""


class DatasetError(EdgesegError):
    """A `dataset.toml`, an image or a mask that cannot be used."""


class UnreadablePairError(DatasetError):
    """An image and its mask of which one cannot be used, or which differ in size."""


class FrameError(EdgesegError):
    """A frame of the wrong shape or dtype."""


class SourceError(EdgesegError):
    """A camera, stream or file that gives no frames."""


class SinkError(EdgesegError):
    """A place that masks cannot be written to."""


class BackendError(EdgesegError):
    """An engine that is missing or refuses the graph."""


class TrainError(EdgesegError):
    """A training run that cannot start, go on or resume."""


class ExportError(EdgesegError):
    """A network that does not survive its own export."""
