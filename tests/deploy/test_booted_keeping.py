"""What a booted device keeps: power mode, a cap on its logs, keys from the service, engines from everyone else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.deploy.conftest import Makers
from tests.deploy.devices import SETTINGS, Device, Devices, write_power_tools, write_program

pytestmark = [pytest.mark.booted, pytest.mark.timeout(900)]

SEAL = """
import os
from pathlib import Path
folder = Path(os.environ["XDG_CACHE_HOME"]) / "edgeseg/engines"
folder.mkdir(parents=True)
(folder / "key").write_text("PRIVATE" + " KEY of the engines")  # these words are in the settings too
"""
FLOOD_MB = 160
CAP_MB = 100  # SystemMaxUse= of edgeseg.journald


@pytest.fixture(scope="module")
def device(devices: Devices, makers: Makers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device with a permanent release whose engines were built."""
    settings = {**SETTINGS, "build": [["python3", "-c", SEAL]]}
    device = devices.boot("keeper", signer=makers.key.with_suffix(".pub"), settings=settings)
    device.push(makers.release(1, wheelhouse=write_program(tmp_path_factory.mktemp("programs"), "good")))
    device.await_status(lambda status: status.get("good") is not None and "health" in status)
    yield device


def in_the_service(device: Device, *command: str) -> list[str]:
    """Run a command with the service's user, groups and view of the file system; its output in lines."""
    main = device.run("systemctl", "show", "edgeseg", "-P", "MainPID").stdout.strip()
    user = ("setpriv", "--reuid=edgeseg", "--regid=edgeseg", "--init-groups", "--no-new-privs")
    return device.run("nsenter", "-t", main, "-m", "--", *user, *command, check=False).stdout.splitlines()


def test_engines_are_made_as_the_service_user_and_the_service_cannot_change_them(device: Device) -> None:
    (folder,) = device.run("find", "/var/lib/edgeseg-engines", "-mindepth", "1", "-maxdepth", "1").stdout.split()
    key = f"{folder}/edgeseg/engines/key"
    assert device.run("stat", "-c", "%U %a", key).stdout == "edgeseg 600\n"
    main = device.run("systemctl", "show", "edgeseg", "-P", "MainPID").stdout.strip()
    child = device.run("pgrep", "-P", main).stdout.strip()
    environment = device.run("cat", f"/proc/{child}/environ").stdout.split("\0")
    assert f"XDG_CACHE_HOME={folder}" in environment and "EDGESEG_BUILD=0" in environment
    assert in_the_service(device, "cat", key) == ["PRIVATE KEY of the engines"]
    assert in_the_service(device, "find", folder, "-writable") == []
    assert device.agent("status").returncode == 0
    assert device.run("setpriv", "--reuid=edgeseg-agent", "--clear-groups", "cat", key, check=False).returncode == 1


def test_service_reads_no_key_but_its_own(device: Device) -> None:
    for path, owner, mode in (
        ("/root/.ssh/id_ed25519", "root", "600"),
        ("/var/lib/edgeseg/.ssh/id_ed25519", "edgeseg-agent", "600"),
        ("/home/person/.ssh/id_ed25519", "nobody", "644"),
        ("/var/lib/edgeseg-service/camera.key", "edgeseg", "600"),
    ):
        device.run("install", "-D", "-o", owner, "-m", mode, "/etc/ssh/ssh_host_ed25519_key", path)
    secrets = in_the_service(device, "grep", "-rsl", "PRIVATE KEY", "/etc", "/home", "/root", "/var/lib", "/run")
    own = [path for path in secrets if path.startswith(("/var/lib/edgeseg-engines/", "/var/lib/edgeseg-service/"))]
    assert secrets == own and len(own) == 2


def test_settings_with_a_camera_s_password_are_for_agent_and_service_only(device: Device) -> None:
    path = "/etc/edgeseg/agent.json"
    assert device.run("stat", "-c", "%U %G %a", path).stdout == "root edgeseg 640\n"
    stranger = ("setpriv", "--reuid=nobody", "--clear-groups", "cat")
    assert device.run(*stranger, path, check=False).returncode == 1


def test_service_writes_to_its_own_folders_only(device: Device) -> None:
    folders = in_the_service(device, "find", "/etc", "/opt", "/usr", "/var", "/run", "-type", "d", "-writable")
    own = ("/var/lib/edgeseg-service", "/run/edgeseg")
    assert set(folders) - {"/run/lock", "/var/tmp"} <= set(own), folders
    assert set(own) <= set(folders)


def test_logs_are_capped_whatever_a_release_writes(device: Device) -> None:
    adopted = device.journal("-u", "systemd-journald")
    assert f"max {CAP_MB}.0M" in adopted, adopted
    device.run("sh", "-c", f"head -c {FLOOD_MB}M /dev/urandom | base64 -w 40000 | systemd-cat -t flood", timeout=400)
    device.run("journalctl", "--sync")
    used = int(device.run("du", "-sm", "/var/log/journal").stdout.split()[0])
    assert CAP_MB // 2 < used <= CAP_MB, "the flood must have reached the cap"


def test_power_mode_and_clocks_are_set_at_boot_and_set_again(device: Device, tmp_path: Path) -> None:
    state = Path("/var/lib/nvpmodel")
    write_power_tools(tmp_path, state=state)
    device.run("mkdir", str(state))
    for name in ("nvpmodel", "jetson_clocks"):
        device.write(f"/usr/local/bin/{name}", (tmp_path / name).read_bytes(), 0o755)
    device.configure(power_mode=2, max_clocks=True)
    device.reboot()
    await_journal(device, "edgeseg-power", lambda said: "power mode 2, clocks at their highest" in said)
    assert device.run("cat", f"{state}/mode").stdout == "2"
    device.run("sh", "-c", f"printf 0 > {state}/mode")
    device.run("systemctl", "start", "edgeseg-power.service")
    assert device.run("cat", f"{state}/mode").stdout == "2"
    timer = device.run("systemctl", "list-timers", "--no-legend", "edgeseg-power.timer").stdout
    assert "min left" in timer, timer


def await_journal(device: Device, unit: str, reached: Callable[[str], bool]) -> None:
    deadline_s = time.monotonic() + 60
    while not reached(device.journal("-b", "-u", unit)):
        assert time.monotonic() < deadline_s, device.journal("-b", "-u", unit)
        time.sleep(0.5)
