"""An aarch64 image's release, prepared with no network from the wheels that it brings along."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.deploy.conftest import Makers
from tests.deploy.qemu.system import System
from tests.deploy.wheelhouse import EDGESEG, INSTALL, PYTHON, make_wheelhouse

from edgeseg.deploy import keys
from edgeseg.runtime.cli import main

SETTINGS = {"prepare": INSTALL, "build": [], "restart": ["true"]}
SLOT = "/var/lib/edgeseg/current"


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_aarch64_wheels_are_installed_with_no_network_and_run_the_bundle(makers: Makers, tmp_path: Path) -> None:
    """Emulated program by program, without a boot; `test_image_boot.py` boots."""
    wheels, trust, image = tmp_path / "wheels", tmp_path / "trust", tmp_path / "image"
    wheels.mkdir()
    release = makers.release(1, wheelhouse=make_wheelhouse(wheels, "aarch64"))
    trust.mkdir()
    (trust / "allowed_signers").write_text(keys.trust_line(makers.key.with_suffix(".pub"), "test"), "utf-8")
    (tmp_path / "agent.json").write_text(json.dumps(SETTINGS), "utf-8")
    keys.make_key(tmp_path / "login", "login")
    words = [
        *("image", "build", System().rootfs(tmp_path), "--out", image, "--release", release, "--trust", trust),
        *("--user", "edge", "--ssh-key", tmp_path / "login.pub", "--settings", tmp_path / "agent.json"),
    ]
    built = CliRunner().invoke(main, [str(word) for word in words])
    assert built.exit_code == 0, built.output

    def on_device(*command: str) -> str:
        """Run a command in the image as the agent's user, with no network but an unconnected loopback."""
        alone = ["unshare", "--net", "--mount", "--pid", "--fork", f"--mount-proc={image / 'proc'}"]
        user = ["setpriv", "--reuid=edgeseg-agent", "--regid=edgeseg-agent", "--init-groups"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/var/lib/edgeseg"]
        done = subprocess.run(
            [*alone, "chroot", str(image), *environment, *user, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    assert on_device("/opt/edgeseg/agent", "fulfil").endswith("is on trial in slot a")
    status = json.loads(on_device("/opt/edgeseg/agent", "status"))
    assert status["current"]["whole"] and status["current"]["version"] == 1
    where = "import platform, onnxruntime, edgeseg.runtime as here; print(platform.machine(), here.__path__[0])"
    said = on_device(PYTHON.format(slot=SLOT), "-c", where)
    assert said.startswith(f"aarch64 {SLOT}/prepared/venv/"), said
    source = ["--source", "synthetic://street?size=96x64&fps=10", "--max-frames", "5"]
    on_device(EDGESEG.format(slot=SLOT), "run", f"{SLOT}/bundle", *source, "--json", "/var/lib/edgeseg/run.json")
    summary = json.loads((image / "var/lib/edgeseg/run.json").read_text("utf-8"))
    assert summary["frames"] >= 5, summary
