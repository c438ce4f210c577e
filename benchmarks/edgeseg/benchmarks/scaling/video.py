"""A video as long as is asked for: `python -m edgeseg.benchmarks.scaling.video JSON` runs it and prints its course."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.errors import EdgesegError
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.pipeline import run_pipeline
from edgeseg.runtime.sinks import open_sink
from edgeseg.runtime.sources.file import FileSource
from edgeseg.runtime.street import StreetCamera

VIDEO_FPS = 25
CLIP_SIZE_HW = (1080, 1920)
CLIP_FRAMES = 25


class LoopedFile:
    """A video file that begins again when it ends, until `frames` were given: its decoder is opened each time."""

    live = False
    clock = "arrival"

    def __init__(self, path: Path, frames: int) -> None:
        self._path, self._frames = path, frames
        self._file = FileSource(path)
        self._next_id = 0
        self.size_hw, self.fps = self._file.size_hw, float(VIDEO_FPS)

    def read(self) -> Frame | None:
        """Return the next frame, counted on from loop to loop."""
        if self._next_id == self._frames:
            return None
        frame = self._file.read()
        if frame is None:
            self._file.close()
            self._file = FileSource(self._path)
            frame = self._file.read()
        if frame is None:
            return None
        self._next_id += 1
        return replace(frame, id=self._next_id - 1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Watch:
    """A sink that prints where the run stands after each share of its frames."""

    spec = "watch"

    def __init__(self, ends: list[int]) -> None:
        self._ends, self._began_s, self._seen = list(ends), time.monotonic(), 0
        self._most_pages = 0
        self._page_mib = resource.getpagesize() / (1 << 20)

    def write(self, result: Result) -> None:
        self._seen += 1
        self._most_pages = max(self._most_pages, int(Path("/proc/self/statm").read_text().split()[1]))
        while self._ends and self._seen >= self._ends[0]:
            del self._ends[0]
            found = {
                "minutes": self._seen / VIDEO_FPS / 60,
                "seconds": time.monotonic() - self._began_s,
                "memory_mib": self._most_pages * self._page_mib,
            }
            print(json.dumps(found), flush=True)  # noqa: T201 (this is the protocol)

    def close(self) -> None:
        pass


def write_clip(path: Path, *, size_hw: tuple[int, int] = CLIP_SIZE_HW, frames: int = CLIP_FRAMES) -> None:
    """Write a clip of the street camera. Raises `BenchmarkError` if this OpenCV cannot encode it."""
    camera, (height, width) = StreetCamera(size_hw=size_hw), size_hw
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), float(VIDEO_FPS), (width, height))
    if not writer.isOpened():
        raise BenchmarkError("this OpenCV writes no mp4v video", fix="pip install opencv-python-headless")
    for index in range(frames):
        writer.write(camera.render(index)[0])
    writer.release()


def run_video(bundle: str, *, minutes: float, shares: list[float]) -> None:
    """Run `minutes` of video, and print the course. Raises `EdgesegError`."""
    frames = max(2, round(minutes * 60 * VIDEO_FPS))
    with tempfile.TemporaryDirectory(prefix="edgeseg-scaling-") as folder, open_bundle(bundle) as opened:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip)
        backend = open_backend(opened, backend="null")
        lines = open_sink(f"jsonl:{folder}/frames.jsonl", contract=opened.contract, fps=float(VIDEO_FPS))
        watch = _Watch(sorted({max(1, round(share * frames)) for share in shares}))
        run_pipeline(LoopedFile(clip, frames), backend, opened.contract, [lines, watch])


def main(order: dict[str, Any]) -> None:
    """Run the order, and print its course or the error."""
    try:
        run_video(**order)
    except EdgesegError as error:
        print(json.dumps({"error": [error.found, error.expected, error.fix]}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
