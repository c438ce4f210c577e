"""The service's main process, with a release that is a few lines of Python."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from tests.deploy.conftest import Bench

from edgeseg.deploy.agent.health import read_health
from edgeseg.deploy.agent.service import Liveness

STAGES = ("capture", "inference", "sinks")


def said(**words: object) -> bytes:
    return json.dumps(words).encode()


def test_every_stage_must_speak_in_time() -> None:
    liveness = Liveness(STAGES, limit_s=30)
    for stage in STAGES[:2]:
        liveness.hear(said(stage=stage), 0)
    assert not liveness.started
    liveness.hear(said(stage="sinks"), 1)
    assert liveness.started
    assert liveness.silent(29) == []
    assert liveness.silent(30.5) == ["capture", "inference"]


def test_camera_being_reopened_is_alive_and_does_not_flow() -> None:
    liveness = Liveness(STAGES, limit_s=30)
    for stage in STAGES:
        liveness.hear(said(stage=stage, frames=5, state="flowing"), 0)
    assert liveness.health("x", "boot", 1).flowing
    for second in range(2, 100):
        for stage in STAGES:
            liveness.hear(said(stage=stage, state="reopening", present=False), second)
    health = liveness.health("x", "boot", 100)
    assert (health.alive, health.flowing, health.present, health.frames) == (True, False, False, 5)


def test_frozen_camera_does_not_flow_though_it_says_so() -> None:
    liveness = Liveness(STAGES, limit_s=30)
    for second in range(20):
        for stage in STAGES:
            liveness.hear(said(stage=stage, frames=5, state="flowing"), second)
    assert not liveness.health("x", "boot", 20).flowing


@pytest.mark.parametrize(
    "line", [b"", b"\xff", b"[]", b"{}", b'{"stage": ["x"]}', b'{"stage": "sinks", "frames": "x"}']
)
def test_unreadable_word_is_no_sign_of_life(line: bytes) -> None:
    liveness = Liveness(("sinks",), limit_s=30)
    liveness.hear(line, 0)
    assert not liveness.started


RELEASE = """
import json, os, sys, time
with os.fdopen(int(os.environ["EDGESEG_LIVENESS"]), "w", buffering=1) as ears:
    for stage in ("capture", "inference", "sinks"):
        print(json.dumps({"stage": stage, "frames": 7, "state": "flowing"}), file=ears)
    assert "NOTIFY_SOCKET" not in os.environ
    %s
"""


@pytest.fixture
def systemd(bench: Bench) -> Iterator[socket.socket]:
    """The socket that systemd would listen at."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(bench.folder / "notify"))
        listener.settimeout(20)
        yield listener


def start(bench: Bench, then: str) -> subprocess.Popen[bytes]:
    bench.install(1)
    bench.config.health.unlink()
    bench.set(serve=(sys.executable, "-c", RELEASE % then))
    environment = {**os.environ, "NOTIFY_SOCKET": str(bench.folder / "notify")}
    return subprocess.Popen(bench.command("serve"), env=environment)


def test_service_gets_ready_feeds_the_watchdog_and_ends_on_term(bench: Bench, systemd: socket.socket) -> None:
    service = start(bench, "time.sleep(60)")
    words: list[bytes] = []
    while b"WATCHDOG=1" not in words:
        words.append(systemd.recv(4096))
    assert words.index(b"READY=1") < words.index(b"WATCHDOG=1")
    health = read_health(bench.config.health)
    assert health is not None
    assert (health.alive, health.flowing, health.frames) == (True, True, 7)
    assert health.release == bench.status()["current"]["digest"]
    service.send_signal(signal.SIGTERM)
    assert service.wait(20) == 0


def test_release_that_will_not_stop_is_killed_before_systemd_would_and_is_no_failure(
    bench: Bench, systemd: socket.socket
) -> None:
    service = start(bench, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)")
    while systemd.recv(4096) != b"READY=1":
        pass
    service.send_signal(signal.SIGTERM)
    systemd.settimeout(0.1)
    deadline_s = time.monotonic() + 19  # systemd waits for 20
    while service.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(TimeoutError):
            systemd.recv(4096)
    assert service.poll() == 0


def test_hanging_stage_starves_the_watchdog(bench: Bench, systemd: socket.socket) -> None:
    bench.set(stage_limit_s=1.0)
    service = start(bench, "time.sleep(60)")
    try:
        while systemd.recv(4096) != b"STATUS=no word from capture, inference, sinks":
            pass
        assert [systemd.recv(4096) for _ in range(2)] == [b"STATUS=no word from capture, inference, sinks"] * 2
        health = read_health(bench.config.health)
        assert health is not None and not health.alive
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(20)


@pytest.mark.parametrize("status", [0, 3])
def test_end_of_the_release_is_the_end_of_the_service(bench: Bench, systemd: socket.socket, status: int) -> None:
    assert start(bench, f"sys.exit({status})").wait(30) == status


def test_nothing_installed_is_one_line(bench: Bench) -> None:
    run = bench.run("serve")
    assert (run.returncode, run.stderr) == (1, "error: no version is installed; fix: push a release\n")


def test_agent_needs_python_3_10_and_nothing_else(bench: Bench) -> None:
    oldest = shutil.which("python3.10") or ""
    runs = oldest and subprocess.run([oldest, "-c", ""], capture_output=True, check=False).returncode == 0
    command = [oldest if runs else sys.executable, "-I", "-S", str(bench.makers.agent), *bench.command("status")[5:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["schema"] == "edgeseg/device-status/1", done.stderr


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "is not a table of settings"),
        ('{"colour": 1}', "unknown setting 'colour'"),
        ('{"probation_s": "long"}', "probation_s is 'long'"),
        ('{"prepare": ["echo"]}', r"prepare is \['echo'\]"),
        ('{"clock": "sundial"}', "clock is 'sundial'"),
        ('{"device": {"wings": 2}}', "device knows only gpu, jetpack"),
    ],
)
def test_wrong_settings_are_one_line(bench: Bench, content: str, match: str) -> None:
    command = bench.command("status")
    (bench.folder / "agent.json").write_text(content, encoding="utf-8")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert re.search(match, done.stderr) and done.stderr.count("\n") == 1, done.stderr
