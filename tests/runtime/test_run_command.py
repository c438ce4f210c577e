"""`edgeseg run` from the outside: a process, its exit status, its JSON and its files."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgeseg.runtime.cli import main
from edgeseg.runtime.commands.run import stop_on_signals
from edgeseg.runtime.pipeline import Stop

PALETTE_ROAD_BGR, ROAD = (128, 64, 128), 3
WAIT_S = 60


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20, (128, 80))
    for _ in range(12):
        writer.write(np.full((80, 128, 3), PALETTE_ROAD_BGR, np.uint8))
    writer.release()
    return path


def _run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_video_to_masks_with_summary_and_document(tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    masks, document_path = tmp_path / "masks", tmp_path / "run.json"
    done = _run(tiny_bundle, "--source", clip, "--sink", f"masks:{masks}", "--sink", "null", "--json", document_path)
    assert done.exit_code == 0, done.output
    assert "12 frames" in done.output and "0 dropped" in done.output and "frame age" in done.output
    assert sorted(path.name for path in masks.iterdir()) == [f"frame-{i:06d}.png" for i in range(12)]
    for path in masks.iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask is not None and mask.shape == (80, 128) and np.all(mask == ROAD)
    document = json.loads(document_path.read_text())
    assert document["schema"] == "edgeseg/run/1"
    assert (document["frames"], document["dropped"], document["faults"]) == (12, 0, [])
    for name in ("inference_ms", "frame_age_ms", "overhead_ms"):
        assert list(document[name]) == ["p50", "p90", "p95", "p99", "max"]
    assert document["fps"] > 0 and document["clock"] == "arrival"
    assert document["bundle"]["name"] == "tiny" and len(document["bundle"]["manifest_sha256"]) == 64
    assert (document["precision"], document["backend"]) == ("fp32", "ort")
    assert document["source"] == str(clip) and document["sinks"] == [f"masks:{masks}", "null"]
    assert document["environment"]


def test_max_frames_ends_the_run(tiny_bundle: Path, clip: Path) -> None:
    done = _run(tiny_bundle, "--source", clip, "--max-frames", "5", "--backend", "null")
    assert done.exit_code == 0 and "5 frames" in done.output


def test_synthetic_street_is_scored_against_its_truth(tiny_bundle: Path, tmp_path: Path) -> None:
    source = "synthetic://street?size=96x64&frames=3&pace=none"
    done = _run(tiny_bundle, "--source", source, "--json", tmp_path / "run.json")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["images"] == document["frames"] == 3
    assert 0 <= document["miou"] <= 100 and "mIoU" in done.output


@pytest.mark.parametrize("name", ["car-detection", "bottle-detection", "carnd_solidWhiteRight"])
def test_real_clips_become_videos_that_play(tiny_bundle: Path, videos: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "masked.mp4"
    source = videos / f"{name}.mp4"
    done = _run(tiny_bundle, "--source", source, "--sink", f"video:{target}", "--max-frames", "8")
    assert done.exit_code == 0, done.output
    before, after = cv2.VideoCapture(str(source)), cv2.VideoCapture(str(target))
    count = 0
    while True:
        decoded, image = after.read()
        if not decoded:
            break
        assert image.shape == before.read()[1].shape
        count += 1
    assert count == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--source", "nowhere.mp4"), "nowhere.mp4 is no file or folder"),
        (("--source", "rtsp://u:secret@127.0.0.1:1/x"), "rtsp://***@127.0.0.1:1/x gave no frame"),
        (("--source", "synthetic://street", "--sink", "paper:x"), "paper"),
        (("--source", "synthetic://street", "--precision", "int8"), "int8"),
    ],
)
def test_users_problems_are_one_line_and_status_1(tiny_bundle: Path, arguments: Sequence[str], said: str) -> None:
    done = _run(tiny_bundle, *arguments)
    lines = done.output.strip().splitlines()
    assert done.exit_code == 1 and len(lines) == 1
    assert lines[0].startswith("error: ") and said in lines[0] and "secret" not in lines[0]


def test_a_sink_that_fails_midway_is_one_line_with_its_stage(tiny_bundle: Path, clip: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "frame-000003.png").mkdir()
    done = _run(tiny_bundle, "--source", clip, "--sink", f"masks:{masks}")
    assert done.exit_code == 1 and done.output.startswith("error: sinks stage: ")
    assert len(done.output.strip().splitlines()) == 1


def test_help_ends_with_an_example() -> None:
    assert "edgeseg run street --source" in _run("--help").output.strip().splitlines()[-1]


def test_a_run_never_imports_torch(tiny_bundle: Path, clip: Path) -> None:
    program = (
        "import sys\n"
        "from edgeseg.runtime.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'onnx', 'matplotlib', 'albumentations'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'onnxruntime', 'cv2'} <= set(sys.modules)\n"
    )
    arguments = ["run", str(tiny_bundle), "--source", str(clip), "--max-frames", "3"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=WAIT_S)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_sinks_and_ends_with_a_summary_and_status_0(
    tiny_bundle: Path, tmp_path: Path, number: signal.Signals
) -> None:
    target, document = tmp_path / "masked.mp4", tmp_path / "run.json"
    source = "synthetic://street?size=96x64&fps=50"
    command = [sys.executable, "-m", "edgeseg.runtime", "run", str(tiny_bundle), "--source", source]
    command += ["--sink", f"video:{target}", "--json", str(document), "--max-frames", "3000"]
    # The live line, on a terminal of its own, tells when the run is under way.
    terminal, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        try:
            shown = _read_until(terminal, b" fps")
            process.send_signal(number)
            output, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
            os.close(terminal)
    assert process.returncode == 0, (output, shown)
    frames = json.loads(document.read_text())["frames"]
    assert 0 < frames < 3000 and f"{frames} frames" in output
    video = cv2.VideoCapture(str(target))
    assert video.read()[0], "the video plays"


def test_the_first_signal_asks_and_the_next_one_ends_the_process() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stop = Stop()
    with stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        stop.wait()
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([descriptor], [], [], WAIT_S)
        assert ready, seen
        seen += os.read(descriptor, 4096)
    return seen
