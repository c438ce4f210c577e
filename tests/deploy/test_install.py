"""The agent's single file installs itself and its units into a file system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.deploy.conftest import Makers


def install(agent: Path, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(agent), "install", "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_image_gets_agent_units_and_the_links_that_start_them(makers: Makers, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/.updated").touch()
    done = install(makers.agent, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "opt/edgeseg/agent").read_bytes() == makers.agent.read_bytes()
    units = tmp_path / "etc/systemd/system"
    started = {path.name: path for path in units.glob("*.wants/*")}
    for name in ("edgeseg.service", "edgeseg-build.path", "edgeseg-engines.socket", "edgeseg-probation.timer"):
        assert started[name].readlink() == Path("/etc/systemd/system") / name
        assert (units / name).is_file()
    assert "edgeseg-engines@.service" not in started
    assert not (tmp_path / "etc/.updated").exists(), "systemd would not make the users"
    for place in ("usr/lib/sysusers.d", "usr/lib/tmpfiles.d", "etc/systemd/journald.conf.d", "etc/ssh/sshd_config.d"):
        assert (tmp_path / place / "edgeseg.conf").is_file()


def test_second_time_keeps_the_settings_and_mends_the_units(makers: Makers, tmp_path: Path) -> None:
    install(makers.agent, tmp_path)
    settings, unit = tmp_path / "etc/edgeseg/agent.json", tmp_path / "etc/systemd/system/edgeseg.service"
    before = unit.read_bytes()
    settings.write_text('{"clock": "trusted"}', "utf-8")
    unit.write_bytes(b"")
    assert install(makers.agent, tmp_path).returncode == 0
    assert json.loads(settings.read_bytes()) == {"clock": "trusted"}
    assert unit.read_bytes() == before


def test_only_the_single_file_installs(makers: Makers, tmp_path: Path) -> None:
    done = install(makers.unpacked, tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: only the agent's single file can be installed")
    assert list(tmp_path.iterdir()) == []
