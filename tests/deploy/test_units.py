"""The units, as systemd reads them."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

UNITS = Path(str(resources.files("edgeseg.deploy"))) / "units"
NAMES = sorted(path.name for path in UNITS.iterdir() if path.suffix in (".service", ".timer", ".path", ".socket"))

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{UNITS}:"}
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, env=environment
    )  # fmt: skip


@needs_systemd
@pytest.mark.parametrize("name", NAMES)
def test_unit_is_read_without_a_word(name: str) -> None:
    done = analyze("verify", "--man=no", str(UNITS / name))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_check_finds_an_unknown_key(tmp_path: Path) -> None:
    broken = tmp_path / "edgeseg-x.service"
    broken.write_text((UNITS / "edgeseg-guard.service").read_text("utf-8") + "NoSuchKey=yes\n", "utf-8")
    assert "NoSuchKey" in analyze("verify", "--man=no", str(broken)).stderr


@needs_systemd
@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".service")])
def test_exposure_is_at_most_three(name: str) -> None:
    done = analyze("security", "--offline=true", "--threshold=30", str(UNITS / name))
    assert done.returncode == 0, done.stdout[-200:]


def settings(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def test_service_still_reaches_camera_network_and_argus() -> None:
    found = settings("edgeseg.service")
    for key in ("PrivateTmp", "PrivateDevices", "PrivateNetwork", "DevicePolicy", "IPAddressDeny", "ProtectClock"):
        assert found.get(key, "no") == "no", key
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} <= set(found["RestrictAddressFamilies"].split())
    assert "video" in found["SupplementaryGroups"].split()


def test_service_is_watched_and_its_end_is_dealt_with() -> None:
    found = settings("edgeseg.service")
    assert (found["Type"], found["OnFailure"]) == ("notify", "edgeseg-start-failed.service")
    assert int(found["WatchdogSec"]) > 30  # the agent's own limit for a stage must strike first
    assert "edgeseg-guard.service" in found["After"] and "edgeseg-guard.service" in found["Wants"]
    assert "Requires" not in found  # a guard that fails must not keep the service from starting


@pytest.mark.parametrize("name", ["edgeseg-build.service", "edgeseg-engines@.service"])
def test_build_has_no_limits_of_time_or_memory(name: str) -> None:
    found = settings(name)
    assert found.get("Type", "simple") == "simple" or found["TimeoutStartSec"] == "infinity"
    assert not {"MemoryMax", "CPUQuota", "RuntimeMaxSec", "TasksMax"} & set(found)


def test_engines_are_built_as_the_user_that_runs_them_and_by_nothing_else() -> None:
    build, service = settings("edgeseg-engines@.service"), (UNITS / "edgeseg.service").read_text("utf-8")
    assert build["User"] == settings("edgeseg.service")["User"]
    assert build["SupplementaryGroups"] == settings("edgeseg.service")["SupplementaryGroups"]
    assert build.get("PrivateDevices", "no") == "no"
    assert "EDGESEG_BUILD=0" in service and "edgeseg-engines" not in service  # which reads them only


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".service")])
def test_only_restart_and_power_run_as_root(name: str) -> None:
    others = {
        "edgeseg.service": "edgeseg",
        "edgeseg-engines@.service": "edgeseg",
        "edgeseg-restart.service": None,
        "edgeseg-power.service": None,
    }
    assert settings(name).get("User") == others.get(name, "edgeseg-agent")
