"""An emulated device, built with `edgeseg image build` and looked at through its agent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from tests.deploy.qemu.machine import Machine
from tests.deploy.qemu.system import System

from edgeseg.deploy import keys
from edgeseg.runtime.cli import main

AGENT = "cd / && setpriv --reuid edgeseg-agent --regid edgeseg --init-groups /usr/bin/python3 /opt/edgeseg/agent"
"""The agent's command line, for root."""


def build_image(
    folder: Path,
    system: System,
    *,
    release: Path,
    signer: Path,
    settings: Mapping[str, Any],
    extra: Mapping[str, bytes],
) -> Path:
    """Write an image to `folder` that trusts `signer` (KEY.pub), begins with `release` and has `extra` files too."""
    root = system.rootfs(folder)
    for name, data in extra.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    (folder / "trust").mkdir()
    (folder / "trust/allowed_signers").write_text(keys.trust_line(signer, "test"), "utf-8")
    (folder / "agent.json").write_text(json.dumps(settings), "utf-8")
    keys.make_key(folder / "login", "login")
    out = folder / "device.img"
    words = [
        *("image", "build", root, "--out", out, "--release", release, "--trust", folder / "trust"),
        *("--user", "edge", "--ssh-key", folder / "login.pub", "--settings", folder / "agent.json"),
    ]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return out


def status(machine: Machine) -> dict[str, Any]:
    """Return what the device says of itself."""
    document: dict[str, Any] = json.loads(machine.run(f"{AGENT} status"))
    return document


def await_permanent(machine: Machine, version: int, timeout_s: float) -> dict[str, Any]:
    """Wait until nothing is on trial and `version` is permanent, and return what the device says of itself.

    The links are looked at until then: an agent started every second would take the emulated processor for itself.
    """
    machine.run(
        'cd /var/lib/edgeseg && until [ ! -e trial.json ] && [ "$(readlink current)" = "$(readlink good)" ] && '
        f"grep -qs '\"version\": {version},' good/release.json; do sleep 1; done; cd /",
        timeout_s,
    )
    found = status(machine)
    assert found["good"]["version"] == version and not found["on_trial"], found
    return found
