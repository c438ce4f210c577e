"""An image on a whole emulated computer: from the first boot to frames of its own camera."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.conftest import Makers
from tests.deploy.qemu.device import await_permanent, build_image, status
from tests.deploy.qemu.machine import Machine, plain_drive
from tests.deploy.qemu.system import System

ROOT = Path(__file__).parents[2]
LONG_S = 1800
RUN = (
    "{slot}/prepared/venv/bin/python -m edgeseg.runtime run {slot}/bundle --source /dev/video0 --sink null --threads 1"
)
SETTINGS: dict[str, Any] = {
    "prepare": [["python3", "-m", "venv", "--without-pip", "--system-site-packages", "{slot}/prepared/venv"]],
    "build": [],
    "serve": RUN.split(),
    "probation_s": 10,
    "start_s": LONG_S,
    "stage_limit_s": 120,
}
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
WHEELS = ("numpy", "onnxruntime", "opencv-python-headless", "av", "click", "rich", "pydantic")
"""What a Jetson's own system has, but for the last three, and is installed here in its place."""


def runtime_of_the_device(folder: Path) -> dict[str, bytes]:
    """Return edgeseg and what it imports, for aarch64 and Debian 12's Python, as files of a root file system."""
    target = folder / "site"
    tags = [word for tag in PLATFORMS for word in ("--platform", tag)]
    platform = [*tags, "--python-version", "3.11", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-compile", "--target", str(target)]
    subprocess.run([*pip, *platform, "-c", str(ROOT / "constraints.txt"), *WHEELS], check=True)
    for portion in ("runtime", "deploy"):
        shutil.copytree(ROOT / portion / "edgeseg", target / "edgeseg", dirs_exist_ok=True)
    here = "usr/local/lib/python3.11/dist-packages"
    return {f"{here}/{path.relative_to(target)}": path.read_bytes() for path in target.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def device(makers: Makers) -> Iterator[tuple[Machine, int, Path]]:
    """A device at its first boot, the port of its SSH here, and the key to log in with."""
    system = System()
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 8 << 30
    with tempfile.TemporaryDirectory(dir=memory if roomy else None) as name:
        folder = Path(name)
        extra = runtime_of_the_device(folder)
        image = build_image(
            folder,
            system,
            release=makers.release(1),
            signer=makers.key.with_suffix(".pub"),
            settings=SETTINGS,
            extra=extra,
        )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with Machine(
            folder,
            kernel=system.kernel,
            initrd=system.initrd(folder),
            drives=plain_drive(image),
            memory_mb=1536,
            cpus=os.cpu_count() or 1,
            ssh_port=port,
        ) as machine:
            machine.expect("@ready", LONG_S)
            yield machine, port, folder / "login"


@pytest.mark.heavy
@pytest.mark.timeout(4 * LONG_S)
def test_first_boot_ends_with_frames_from_the_camera(device: tuple[Machine, int, Path]) -> None:
    machine, port, key = device
    found = await_permanent(machine, 1, 2 * LONG_S)
    assert found["current"] == found["good"] and found["current"]["slot"] == "a", found
    machine.run("until grep -q '\"flowing\": true' /run/edgeseg/health.json; do sleep 1; done", LONG_S)
    health = status(machine)["health"]
    assert health["alive"] and health["frames"] > 0 and health["present"] is True, health
    assert health["golden"] == 1, health
    name = machine.run("hostname")
    assert name.startswith("edgeseg-") and machine.run("cat /etc/edgeseg/first-boot.done") == name
    ssh = [
        "ssh",
        "-i",
        str(key),
        "-p",
        str(port),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    for user, command, answer in (("edge", "hostname", name), ("edgeseg-agent", "id -un", "edgeseg-agent")):
        words = [*ssh, "-o", "ConnectTimeout=300", f"{user}@127.0.0.1", command]
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=LONG_S).stdout.strip()
        assert said == answer


@pytest.mark.heavy
@pytest.mark.timeout(4 * LONG_S)
def test_camera_that_goes_away_comes_back_in_the_summary(device: tuple[Machine, int, Path]) -> None:
    """`vivid` acts as a camera whose plug is pulled; it is there again once nobody holds it any more."""
    machine, _, _ = device
    await_permanent(machine, 1, 2 * LONG_S)
    machine.run("systemctl stop edgeseg.service edgeseg-restart.path")
    run = RUN.replace("{slot}", "/var/lib/edgeseg/slots/a")
    # In a shell of its own, which tells the console nothing of its jobs.
    start = f"{run} --sink jsonl:/tmp/frames.jsonl --json /tmp/run.json >/tmp/said 2>&1 & echo $! >/tmp/pid"
    machine.run(f"({start})")
    lines = "$(cat /tmp/frames.jsonl 2>/dev/null | wc -l)"
    for _ in range(2):
        machine.run(f"was={lines}; until [ {lines} -gt $((was + 20)) ]; do sleep 1; done", LONG_S)
        machine.run("v4l2-ctl -d0 -c disconnect=1")
    machine.run(f"was={lines}; until [ {lines} -gt $((was + 20)) ]; do sleep 1; done", LONG_S)
    machine.run("kill -TERM $(cat /tmp/pid); while kill -0 $(cat /tmp/pid) 2>/dev/null; do sleep 1; done", LONG_S)
    summary = json.loads(machine.run("cat /tmp/run.json"))
    assert summary["fault_counts"]["disconnect"] == 2, machine.run("cat /tmp/said")
    faults = [fault for fault in summary["faults"] if fault["kind"] == "disconnect"]
    assert all(fault["recovery_ms"] > 0 for fault in faults), faults
