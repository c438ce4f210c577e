"""What is had more of along each axis, and how it is measured.

Every point has a process of its own. Points that can wait for each other are measured in rounds, one turn of each and
the order changed from round to round, so that what slows the machine meets all of them and not the last.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from edgeseg.benchmarks.errors import BenchmarkError
from edgeseg.benchmarks.process import Subject, start_process
from edgeseg.benchmarks.scaling.document import Axis, Point
from edgeseg.benchmarks.scaling.network import Network, write_network
from edgeseg.benchmarks.scaling.video import CLIP_SIZE_HW, VIDEO_FPS
from edgeseg.runtime.commands.common import Advance

SOURCE = "synthetic://street?size=320x240&fps=25"
SIZES = ((96, 128), (192, 256), (384, 512), (576, 768), (768, 1024))
CHANNELS = (8, 16, 32, 64, 96)
_LEAST = Network(height=32, width=32, channels=1)
CAMERAS = (1, 2, 3, 4)
CAMERA_FRAMES = 30
SHARES = (1 / 60, 1 / 30, 1 / 12, 1 / 6, 1 / 3, 1 / 2, 1)
"""Of the video, where its run is looked at: of an hour after one minute, two, five, ten and so on."""
_TURN_FRAMES = 4
_MIB = 1024
_SEEN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "0"}
"""For glibc: what a network takes are pages of its own, not what importing packages had left in the heap."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured beside the axes themselves."""

    bundle: str
    """For the axes that need no network of a certain size."""
    rounds: int = 8
    video_minutes: float = 60.0

    @property
    def cores(self) -> int:
        return len(os.sched_getaffinity(0))


def measure_input_size(settings: Settings, advance: Advance) -> Axis:
    """Networks of one shape on inputs from 96x128 to 768x1024."""
    networks = [Network(height=height, width=width, channels=16) for height, width in SIZES]
    return _measure_networks(
        networks,
        [network.height * network.width / 1e3 for network in networks],
        settings,
        advance,
        what="one network on larger and larger inputs",
        x_unit="thousands of pixels",
        facts={"sizes": [list(size) for size in SIZES], "channels": 16},
    )


def measure_model_size(settings: Settings, advance: Advance) -> Axis:
    """Wider and wider networks on one input."""
    networks = [Network(height=192, width=256, channels=channels) for channels in CHANNELS]
    return _measure_networks(
        networks,
        [network.macs / 1e6 for network in networks],
        settings,
        advance,
        what="wider and wider networks on an input of 192x256",
        x_unit="millions of MACs a frame",
        facts={"channels": list(CHANNELS)},
    )


def measure_threads(settings: Settings, advance: Advance) -> Axis:
    """The bundle's CPU graph with one thread to as many as this process may have cores."""
    if settings.cores < 2:
        raise BenchmarkError("one core", expected="two or more for the axis threads", fix="leave it out with --axis")
    counts = sorted({1, 2, *(2**n for n in range(2, 8) if 2**n <= settings.cores), settings.cores})
    subjects = [
        Subject(bundle=settings.bundle, backend="ort", precision="auto", threads=count, source=SOURCE)
        for count in counts
    ]
    times, memory = _take_turns(subjects, settings.rounds, advance)
    return Axis.of(
        _points(counts, times, memory),
        what="the bundle on more and more threads",
        x_unit="threads",
        time_what="inference",
        time_unit="ms",
        memory_what="resident memory of the process",
        settings=_facts(settings, counts=counts),
    )


def measure_cameras(settings: Settings, advance: Advance) -> Axis:
    """One `edgeseg run` with more and more cameras, each as fast as it is asked, one thread for inference."""
    times: list[list[float]] = [[] for _ in CAMERAS]
    memory = [0.0] * len(CAMERAS)
    order = list(range(len(CAMERAS)))
    for number in range(settings.rounds):
        for index in order if number % 2 == 0 else reversed(order):
            fps, peak_mib = _run_cameras(settings.bundle, CAMERAS[index])
            times[index].append(1e3 * CAMERAS[index] / fps)
            memory[index] = max(memory[index], peak_mib)
            advance()
    return Axis.of(
        _points(CAMERAS, times, memory),
        what="one process with more and more cameras",
        x_unit="cameras",
        time_what="from one mask of a camera to its next",
        time_unit="ms",
        memory_what="peak resident memory of the process",
        settings=_facts(settings, frames_each=CAMERA_FRAMES),
    )


def measure_video(settings: Settings, advance: Advance) -> Axis:
    """A long 1080p video through the whole pipeline as fast as it goes, with nothing to compute."""
    order = {"bundle": settings.bundle, "minutes": settings.video_minutes, "shares": list(SHARES)}
    points = []
    for found in _follow([sys.executable, "-m", "edgeseg.benchmarks.scaling.video", json.dumps(order)]):
        points.append(Point(x=found["minutes"], times=(found["seconds"],), memory_mib=round(found["memory_mib"], 1)))
        advance()
    height, width = CLIP_SIZE_HW
    return Axis.of(
        points,
        what=f"a {width}x{height} video at {VIDEO_FPS} frames a second: one clip, decoded over and over by the file "
        "source, through fitting, the null backend and unfitting, to jsonl",
        x_unit="minutes of video",
        time_what="from the run's first frame",
        time_unit="s",
        memory_what="most resident memory so far, seen every frame",
        settings={"video_minutes": settings.video_minutes},
    )


AXES: dict[str, Callable[[Settings, Advance], Axis]] = {
    "input-size": measure_input_size,
    "model-size": measure_model_size,
    "threads": measure_threads,
    "cameras": measure_cameras,
    "video-length": measure_video,
}


def count_steps(name: str, settings: Settings) -> int:
    """Return how often `AXES[name]` calls `advance`."""
    return {"cameras": settings.rounds * len(CAMERAS), "video-length": len(SHARES)}.get(name, settings.rounds)


def _measure_networks(
    networks: Sequence[Network],
    x: Sequence[float],
    settings: Settings,
    advance: Advance,
    *,
    what: str,
    x_unit: str,
    facts: dict[str, Any],
) -> Axis:
    with tempfile.TemporaryDirectory(prefix="edgeseg-scaling-") as folder:
        # The first is next to nothing: what its process takes is Python's and the engine's, and no part of the curve.
        subjects = [
            Subject(
                bundle=str(write_network(network, Path(folder) / str(index))),
                backend="ort",
                precision="fp32",
                threads=1,
                source=SOURCE,
            )
            for index, network in enumerate((_LEAST, *networks))
        ]
        (_, *times), (floor_mib, *memory) = _take_turns(subjects, settings.rounds, advance, environment=_SEEN_MEMORY)
    return Axis.of(
        _points(x, times, [mib - floor_mib for mib in memory]),
        what=f"{what}: random weights, fp32, one thread",
        x_unit=x_unit,
        time_what="inference",
        time_unit="ms",
        memory_what="resident memory above that of a process with the smallest network there is",
        settings={"rounds": settings.rounds, **facts},
    )


def _take_turns(
    subjects: Sequence[Subject], rounds: int, advance: Advance, *, environment: Mapping[str, str] | None = None
) -> tuple[list[list[float]], list[float]]:
    """Return for each subject the median `inference_ms` of every turn, and what its process has in MiB."""
    times: list[list[float]] = [[] for _ in subjects]
    with ExitStack() as stack:
        processes = [stack.enter_context(start_process(subject, environment=environment)) for subject in subjects]
        order = list(enumerate(processes))
        for number in range(-1, rounds):
            for index, process in order if number % 2 == 0 else reversed(order):
                found = process.do("segment", count=_TURN_FRAMES)["inference_ms"][1:]
                if number >= 0:  # the round before warms up
                    times[index].append(median(found))
            advance(int(number >= 0))
        return times, [read_resident_mib(process.pid) for process in processes]


def _run_cameras(bundle: str, cameras: int) -> tuple[float, float]:
    """Return masks a second of all cameras together, and the process' peak in MiB."""
    sources = [f"synthetic://street?size=128x96&pace=none&seed={index}" for index in range(cameras)]
    with tempfile.TemporaryDirectory(prefix="edgeseg-scaling-") as folder:
        document = Path(folder) / "run.json"
        command = [sys.executable, "-m", "edgeseg.runtime", "run", bundle, "--backend", "ort", "--threads", "1"]
        command += ["--max-frames", str(CAMERA_FRAMES * cameras), "--json", str(document)]
        command += [word for source in sources for word in ("--source", source)]
        with tempfile.TemporaryFile("w+") as said:
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
            # Of this child alone, while getrusage's RUSAGE_CHILDREN keeps the largest of all.
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                said.seek(0)
                line = (said.read().strip().splitlines() or ["nothing said"])[-1]
                raise BenchmarkError(f"edgeseg run with {cameras} cameras ended with {child.returncode}: {line}")
        return json.loads(document.read_bytes())["fps"], usage.ru_maxrss / _MIB


def _follow(command: Sequence[str]) -> Any:
    """Yield each line of JSON that `command` prints. Raises `BenchmarkError` if it fails."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            for line in child.stdout:
                found = json.loads(line)
                if "error" in found:
                    raise BenchmarkError(*found["error"][:1], expected=found["error"][1], fix=found["error"][2])
                yield found
        except BaseException:
            child.kill()
            raise
    if child.returncode:
        raise BenchmarkError(
            f"the process that runs the video ended with status {child.returncode}", fix="see its own message above"
        )


def read_resident_mib(pid: int) -> float:
    """Return the resident memory of process `pid`, in MiB: what an engine has once asked for it keeps."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / _MIB
    raise BenchmarkError(f"process {pid} has ended", fix="see its own message above")


def _points(x: Sequence[float], times: Sequence[Sequence[float]], memory_mib: Sequence[float]) -> list[Point]:
    return [
        Point(x=at, times=tuple(round(time, 4) for time in found), memory_mib=round(max(0.0, mib), 1))
        for at, found, mib in zip(x, times, memory_mib, strict=True)
    ]


def _facts(settings: Settings, **more: Any) -> dict[str, Any]:
    return {"bundle": settings.bundle, "rounds": settings.rounds, **more}
