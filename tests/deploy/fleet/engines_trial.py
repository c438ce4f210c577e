"""What Ansible, pyinfra and ssh alone make of three booted devices, measured:

    python -m tests.deploy.fleet.engines_trial --ansible VENV --pyinfra VENV --json FILE

Each VENV is a folder with that engine installed and nothing else. It needs root (tests/deploy/devices) and a few
minutes. CPU seconds are of this machine's processes of the engine, ssh among them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.deploy.devices import Device, Devices

from edgeseg.deploy import keys

SIZE = 40_000_000
SILENT_S = 40
TARGET = "/var/tmp/file"
Command = tuple[list[str], dict[str, str]]


class Engine:
    """One contender. Each method returns a command for all devices, or says that it has none."""

    def __init__(self, folder: Path, devices: Devices, made: list[Device]) -> None:
        self.folder, self.devices, self.made = folder, devices, made

    def ask(self) -> Command:
        raise NotImplementedError

    def put(self, file: Path) -> Command:
        raise NotImplementedError

    def here(self) -> Command:
        """A program of three seconds on this machine for each device."""
        raise NotImplementedError


class Ansible(Engine):
    def __init__(self, venv: Path, *place: Any) -> None:
        super().__init__(*place)
        options = shlex.join([*self.devices.ssh_options, "-o", "ControlMaster=no"])
        hosts = {device.name: {"ansible_host": device.address} for device in self.made}
        shared = {
            "ansible_user": "root",
            "ansible_ssh_args": options,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        self._hosts = self.folder / "hosts.json"
        self._hosts.write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}), "utf-8")
        (self.folder / "ansible.cfg").write_text("[defaults]\n", "utf-8")
        home = {"ANSIBLE_HOME": str(self.folder / "ansible"), "ANSIBLE_CONFIG": str(self.folder / "ansible.cfg")}
        self._program, self._environment = str(venv / "bin/ansible"), {**home, "LC_ALL": "C.UTF-8"}

    def _command(self, module: str, words: str, *more: str) -> Command:
        return [self._program, "all", "-i", str(self._hosts), "-m", module, "-a", words, *more], self._environment

    def ask(self) -> Command:
        return self._command("raw", "true")

    def put(self, file: Path) -> Command:
        return self._command("copy", f"src={file} dest={TARGET}")

    def here(self) -> Command:
        return self._command("raw", "sleep 3", "-c", "local")


class Pyinfra(Engine):
    def __init__(self, venv: Path, *place: Any) -> None:
        super().__init__(*place)
        data = {
            "ssh_user": "root", "ssh_key": str(self.devices.login_key), "ssh_config_file": "/dev/null",
            "ssh_known_hosts_file": str(self.devices.known_hosts), "ssh_strict_host_key_checking": "yes",
        }  # fmt: skip
        self._hosts = self.folder / "hosts.py"
        self._hosts.write_text(f"hosts = {[(device.address, data) for device in self.made]!r}\n", "utf-8")
        self._here = self.folder / "here.py"
        self._here.write_text(
            "import subprocess\nfrom pyinfra.operations import python\n"
            "python.call(name='here', function=lambda: subprocess.run(['sleep', '3'], check=True))\n",
            "utf-8",
        )
        self._program = str(venv / "bin/pyinfra")

    def _command(self, *words: str) -> Command:
        return [self._program, "-y", str(self._hosts), *words], {}

    def ask(self) -> Command:
        return self._command("exec", "--", "true")

    def put(self, file: Path) -> Command:
        return self._command("files.put", f"src={file}", f"dest={TARGET}")

    def here(self) -> Command:
        return self._command(str(self._here))


class Ssh(Engine):
    def _command(self, words: str, stdin: str) -> Command:
        options = shlex.join([*self.devices.ssh_options, "-o", "ServerAliveInterval=5"])
        one = 'ssh {} root@{} {} < {} & all="$all $!"'
        lines = [one.format(options, device.address, shlex.quote(words), stdin) for device in self.made]
        return ["sh", "-c", "\n".join([*lines, "for one in $all; do wait $one || bad=1; done; exit $bad"])], {}

    def ask(self) -> Command:
        return self._command("true", "/dev/null")

    def put(self, file: Path) -> Command:
        return self._command(f"cat > {TARGET}", str(file))

    def here(self) -> Command:
        return ["sh", "-c", "\n".join([*["sleep 3 &"] * len(self.made), "wait"])], {}


def spend(command: Command, limit_s: float = 300, during: Callable[[], object] = lambda: None) -> dict[str, Any]:
    """Run it, `during` meanwhile, and return its status, seconds and CPU seconds."""
    words, environment = command
    begin_s = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        words, env={**os.environ, **environment}, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )  # fmt: skip
    during()
    ended = False
    while not ended and time.monotonic() - begin_s < limit_s:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        ended = pid != 0
        time.sleep(0.02)
    if not ended:
        os.killpg(process.pid, 9)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {
        "status": process.returncode if ended else f"still waiting after {limit_s:.0f} s",
        "seconds": round(time.monotonic() - begin_s, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
    }


def size_there(device: Device) -> int:
    """Return how much of the file is under its final name."""
    path = device.root / TARGET[1:]
    return path.stat().st_size if path.exists() else 0


def came(device: Device) -> int:
    """Return the bytes that went out to a device since it was booted."""
    number = device.address.split(".")[2]
    return int(Path(f"/sys/class/net/v-edgeseg-{number}/statistics/tx_bytes").read_text())


def clean(made: list[Device]) -> None:
    for device in made:
        device.run("sh", "-c", f"rm -rf {TARGET} ~root/.ansible /tmp/pyinfra*; sync")


def try_engine(engine: Engine, file: Path, made: list[Device], known_hosts: Path) -> dict[str, Any]:
    """Measure one engine."""
    first = made[0]
    found: dict[str, Any] = {"true": min((spend(engine.ask()) for _ in range(2)), key=lambda item: item["cpu_seconds"])}
    found["three seconds here for each"] = spend(engine.here())
    found["file"] = spend(engine.put(file))
    found["file"]["arrived"] = [size_there(device) == SIZE for device in made]
    clean(made)

    def at_a_third(act: Callable[[], object]) -> Callable[[], None]:
        begin = came(first)

        def wait() -> None:
            deadline_s = time.monotonic() + 120
            while came(first) - begin < SIZE * 0.3 and time.monotonic() < deadline_s:
                time.sleep(0.005)
            act()

        return wait

    before = came(first)
    cut = spend(engine.put(file), during=at_a_third(lambda: first.run("pkill", "-9", "-f", "sshd: root", check=False)))
    cut["under_the_final_name"], cut["sent_mb"] = size_there(first), round((came(first) - before) / 1e6, 1)
    before = came(first)
    again = spend(engine.put(file))
    found["link cut"] = {**cut, "sent_again_mb": round((came(first) - before) / 1e6, 1), "again": again["status"]}
    clean(made)

    silent = spend(engine.put(file), SILENT_S, at_a_third(lambda: first._place.set_link(False)))
    silent["under_the_final_name"] = size_there(first)
    found["link silent"] = silent
    first.set_link(True)
    clean(made)

    text = known_hosts.read_text("utf-8")
    other = made[1].known_host.split(" ", 1)[1]
    known_hosts.write_text(text.replace(first.known_host, f"{first.address} {other}"), "utf-8")
    found["wrong host key"] = spend(engine.put(file))
    found["wrong host key"]["arrived"] = [size_there(device) == SIZE for device in made]
    known_hosts.write_text(text, "utf-8")
    clean(made)
    made[1]._place.set_link(False)
    found["device off"] = spend(engine.put(file), SILENT_S)
    found["device off"]["arrived"] = [size_there(device) == SIZE for device in made]
    made[1].set_link(True)
    clean(made)
    return found


def read_size(venv: Path) -> dict[str, Any]:
    listing = subprocess.run([venv / "bin/pip", "list", "--format=json"], capture_output=True, check=True).stdout
    files = subprocess.run(["du", "-sm", venv], capture_output=True, text=True, check=True).stdout
    packages = {item["name"]: item["version"] for item in json.loads(listing)}
    return {"mb": int(files.split()[0]), "packages": packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("ansible", "pyinfra", "json"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = folder / "file"
        file.write_bytes(random.Random(0).randbytes(SIZE))
        keys.make_key(folder / "signer", "trial")
        (folder / "devices").mkdir()
        with Devices(folder / "devices") as devices:
            signer = folder / "signer.pub"
            made = [devices.boot(f"trial-{number}", signer=signer, disk_mb=1024) for number in (1, 2, 3)]
            place = (folder, devices, made)
            engines = {
                "ansible": Ansible(options.ansible, *place),
                "pyinfra": Pyinfra(options.pyinfra, *place),
                "ssh": Ssh(*place),
            }
            found: dict[str, Any] = {}
            for name, engine in engines.items():
                found[name] = try_engine(engine, file, made, devices.known_hosts)
                print(name, json.dumps(found[name]), flush=True)  # noqa: T201
    for name, venv in (("ansible", options.ansible), ("pyinfra", options.pyinfra)):
        found[name]["installed"] = read_size(venv)
    options.json.write_text(json.dumps({"file_bytes": SIZE, "devices": 3, "engines": found}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
