"""What a run says to the device agent, as the agent's own reader takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.deploy.agent.service import Liveness as Reader
from edgeseg.runtime.backends import open_backend
from edgeseg.runtime.backends.null import NullBackend
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.cameras import Pulse
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.frame import Frame, Result
from edgeseg.runtime.liveness import Liveness, describe_stages, kept_promise, open_liveness
from edgeseg.runtime.summary import CameraRecorder, RunRecorder, Told

STAGES = ("capture", "inference", "sinks")


def _pulse(**parts: Any) -> Pulse:
    well: dict[str, Any] = {
        "capture_s": (0.1,), "reopening": (False,), "inference_s": 0.0, "sinks_s": (), "frames_read": 7,
    }  # fmt: skip
    return Pulse(**{**well, **parts})


def _hear(pulse: Pulse, present: bool | None = True) -> Reader:
    reader = Reader(STAGES, limit_s=30)
    for words in describe_stages(pulse, present=present, golden=0.995, frame_age_ms=41.2):
        reader.hear(json.dumps(words).encode(), 5.0)
    return reader


def test_the_agent_reads_a_run_that_is_well() -> None:
    reader = _hear(_pulse())
    assert reader.started and reader.silent(5.0) == []
    health = reader.health("release", "boot", 5.0)
    assert (health.alive, health.flowing, health.frames, health.present) == (True, True, 7, True)
    assert (health.frame_age_ms, health.golden) == (41.2, 0.995)


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("capture", {"capture_s": (11.0,)}),
        ("capture", {"capture_s": (0.0, 11.0), "reopening": (True, False)}),
        ("inference", {"inference_s": 11.0}),
        ("sinks", {"sinks_s": (0.1, 11.0)}),
    ],
)
def test_a_stage_that_hangs_is_the_one_that_is_silent(stage: str, parts: dict[str, Any]) -> None:
    assert _hear(_pulse(**parts)).silent(5.0) == [stage]


@pytest.mark.parametrize("present", [True, False, None])
def test_a_camera_that_is_away_is_alive_and_does_not_flow(present: bool | None) -> None:
    reader = _hear(_pulse(capture_s=(100.0,), reopening=(True,)), present)
    health = reader.health("release", "boot", 5.0)
    assert (reader.silent(5.0), health.flowing, health.present) == ([], False, present)


def test_frames_flow_while_one_of_several_cameras_is_there() -> None:
    reader = _hear(_pulse(capture_s=(100.0, 0.1), reopening=(True, False)))
    assert reader.silent(5.0) == [] and reader.health("release", "boot", 5.0).flowing


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        try:
            os.close(descriptor)
        except OSError:
            continue


def _recorder(contract: Contract) -> RunRecorder:
    recorder = CameraRecorder(contract, Told)
    frame = Frame(image_bgr=np.zeros((4, 6, 3), np.uint8), id=0, captured_ns=0, name="f")
    recorder.masked(Result(frame=frame, mask=np.zeros((4, 6), np.uint8), inference_ms=3, masked_ns=8_000_000))
    return RunRecorder([recorder])


def test_an_agent_that_does_not_read_holds_nothing_up(tiny_contract: Contract, pipe: tuple[int, int]) -> None:
    liveness, recorder = Liveness(pipe[1], present=lambda: None, golden=None), _recorder(tiny_contract)
    for _ in range(2000):
        liveness(_pulse(), recorder)
    lines = os.read(pipe[0], 1 << 20).decode().splitlines()
    assert [json.loads(line)["stage"] for line in lines[:3]] == list(STAGES)
    assert len(lines) % 3 == 0 and all(json.loads(line) for line in lines), "none is cut"
    assert json.loads(lines[0]) == {"stage": "capture", "state": "flowing", "frames": 7}
    assert json.loads(lines[2])["frame_age_ms"] == pytest.approx(8, rel=0.01)


def test_an_agent_that_is_gone_is_told_once(
    tiny_contract: Contract, pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    liveness, recorder = Liveness(pipe[1], present=lambda: True, golden=None), _recorder(tiny_contract)
    os.close(pipe[0])
    for _ in range(3):
        liveness(_pulse(), recorder)
    assert caplog.text.count("nobody listens") == 1


@pytest.mark.parametrize("word", ["", "x", "-1", "987654"])
def test_a_word_that_names_no_descriptor_is_told_and_ignored(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, word: str
) -> None:
    with open_bundle(tiny_bundle) as bundle:
        engine = NullBackend(bundle)
        assert open_liveness(bundle, engine, lambda: True, {"EDGESEG_LIVENESS": word}) is None
    assert "names no open descriptor" in caplog.text


def test_without_an_agent_nothing_is_said(tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        assert open_liveness(bundle, NullBackend(bundle), lambda: True, {}) is None


def test_golden_is_the_share_of_what_the_manifest_requires(tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        engine = open_backend(bundle, backend="ort")
        assert kept_promise(bundle, engine) == 1.0
        wrong = kept_promise(bundle, NullBackend(bundle))
        assert wrong is not None and wrong < 0.5
        engine.close()
