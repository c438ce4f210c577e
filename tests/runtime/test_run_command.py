"""`edgeseg run` from the outside: a process, its exit status, its JSON and its files."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
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
    assert document["source"] == str(clip) and [one["source"] for one in document["cameras"]] == [str(clip)]
    assert document["sinks"] == [{"sink": sink, "frames": 12, "dropped": 0} for sink in (f"masks:{masks}", "null")]
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


def test_injected_faults_are_survived_and_reported(tiny_bundle: Path, tmp_path: Path) -> None:
    source, orders = "synthetic://street?size=96x64&fps=50", "corrupt@3,disconnect:0.2@8,resize@14"
    arguments = (tiny_bundle, "--source", source, "--backend", "null", "--fault", orders, "--max-frames", "40")
    done = _run(*arguments, "--json", tmp_path / "run.json")
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "run.json").read_text())
    # A busy machine may add stalls and slow frames of its own.
    ordered = [fault for fault in document["faults"] if fault["kind"] in ("corrupt", "disconnect", "resize")]
    assert [fault["kind"] for fault in ordered] == ["corrupt", "disconnect", "resize"]
    assert all(fault["frame"] >= at for fault, at in zip(ordered, (3, 8, 14), strict=True))
    assert ordered[1]["recovery_ms"] >= 200
    assert {kind: document["fault_counts"][kind] for kind in ("corrupt", "disconnect", "resize")} == dict.fromkeys(
        ("corrupt", "disconnect", "resize"), 1
    )
    assert document["drops"]["corrupt"] == 1
    assert "faults survived: " in done.output and "1 disconnect" in done.output


def test_clip_of_a_live_run_lasts_as_long_as_the_camera_ran(tiny_bundle: Path, tmp_path: Path) -> None:
    target, records = tmp_path / "live.mp4", tmp_path / "live.jsonl"
    # Frames are lost at this rate, which is the point.
    source = "synthetic://street?size=96x64&fps=200"
    sinks = ("--sink", f"video:{target}", "--sink", f"jsonl:{records}")
    done = _run(tiny_bundle, "--source", source, "--backend", "null", "--max-frames", "30", *sinks)
    assert done.exit_code == 0, done.output
    captured_ns = [json.loads(line)["captured_ns"] for line in records.read_text().splitlines()]
    clip = cv2.VideoCapture(str(target))
    lasted_s = clip.get(cv2.CAP_PROP_FRAME_COUNT) / clip.get(cv2.CAP_PROP_FPS)
    # Each sink may have dropped the run's last frames, one period apart where nothing is lost.
    assert lasted_s == pytest.approx((captured_ns[-1] - captured_ns[0]) / 1e9, abs=0.5)


def test_faults_are_for_live_sources(tiny_bundle: Path, clip: Path) -> None:
    done = _run(tiny_bundle, "--source", clip, "--fault", "corrupt@3")
    assert done.exit_code == 1 and "which is not live" in done.output


@pytest.mark.parametrize(
    ("objective", "status", "said"),
    [
        ("age_p99=1000000ms", 0, ""),
        ("fps>=0.001", 0, ""),
        ("dropped<=0%", 0, ""),
        ("age_p50<=0.001ms", 1, "error: objective missed: age_p50<=0.001ms: found "),
        ("fps>=100000", 1, "error: objective missed: fps>=100000: found "),
        ("fps<=3", 2, "'fps<=3' is no objective"),
        ("age_p42=3ms", 2, "is no objective"),
    ],
)
def test_missed_objective_is_status_1_with_its_reason(
    tiny_bundle: Path, clip: Path, objective: str, status: int, said: str
) -> None:
    done = _run(tiny_bundle, "--source", clip, "--slo", objective)
    assert done.exit_code == status and said in done.output
    assert status != 1 or ("missed by" in done.output and "inference" in done.output)


def test_a_sink_that_fails_in_a_live_run_is_told_at_once_and_at_the_end(tiny_bundle: Path, tmp_path: Path) -> None:
    masks, document = tmp_path / "masks", tmp_path / "run.json"
    for number in range(2000):  # whichever frame a busy machine lets through first
        (masks / f"frame-{number:06d}.png").mkdir(parents=True)
    source = "synthetic://street?size=96x64&fps=50"
    sinks = ("--sink", f"masks:{masks}", "--sink", "null")
    done = _run(tiny_bundle, "--source", source, *sinks, "--max-frames", "10", "--json", document)
    assert done.exit_code == 1 and json.loads(document.read_text())["frames"] == 10
    assert "error: the run went on without masks:" in done.output and "and dropped 10" in done.output


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


def test_a_second_interrupt_ends_a_run_that_cannot_finish_at_once(tiny_bundle: Path, tmp_path: Path) -> None:
    # A reader that opens the sink's pipe and never reads: the sink hangs, and its minute of grace begins.
    pipe = tmp_path / "records.jsonl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    command = [sys.executable, "-m", "edgeseg.runtime", "run", str(tiny_bundle)]
    command += ["--source", "synthetic://street?size=96x64&fps=50", "--sink", f"jsonl:{pipe}", "--sink", "null"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            _wait_until_full(reader)
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(2)
            process.send_signal(signal.SIGINT)
            assert process.wait(2) == -signal.SIGINT
        finally:
            process.kill()
            os.close(reader)


def _wait_until_full(reader: int) -> None:
    """Wait until nothing more is written to a pipe that nobody reads."""
    held, steady, deadline_s = array.array("i", [0]), 0, time.monotonic() + WAIT_S
    while steady < 8:
        assert time.monotonic() < deadline_s, f"the pipe holds {held[0]} bytes"
        time.sleep(0.25)
        before = held[0]
        fcntl.ioctl(reader, termios.FIONREAD, held)
        steady = steady + 1 if held[0] == before > 0 else 0


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
