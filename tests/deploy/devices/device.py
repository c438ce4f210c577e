"""Booted devices: a container each, with a network name space and a disk of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.deploy.devices.place import Place
from tests.deploy.devices.programs import SETTINGS
from tests.deploy.devices.rootfs import make_rootfs

from edgeseg.deploy import keys
from edgeseg.deploy.release import write_agent
from edgeseg.runtime.files import sha256_file

_REBOOTED = 133
_BOOT_S = 120.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_POWER_OFF = signal.SIGRTMIN + 4  # systemd's word for it
_USER = "edgeseg-agent"
AS_AGENT = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups", "/opt/edgeseg/agent")
"""The agent as its user, in a command for `Device.run`."""


class Device:
    """One device. It is made by `Devices.boot` and runs until `stop` or `cut_power`; `start` boots it again."""

    def __init__(self, name: str, place: Place, options: tuple[str, ...]) -> None:
        self.name, self._place, self._options = name, place, options
        self.address = place.address
        self.known_host = ""
        self._thread: threading.Thread | None = None
        self._container: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        """Its file system as this machine sees it, while it runs; its /run and /tmp are not in there."""
        return self._place.root

    def start(self) -> None:
        """Switch it on, and return when it answers. What it reboots by itself it comes back from."""
        self._place.mount()
        self._thread = threading.Thread(target=self._run_container, daemon=True)
        self._thread.start()
        self.wait_until_up()

    def stop(self) -> None:
        """Shut it down in order."""
        self._end(_POWER_OFF)
        self._place.unmount()

    def cut_power(self) -> None:
        """Pull the plug: every process is gone at once, and only what had reached the disk is still there."""
        self._end(signal.SIGKILL)
        self._place.lose_power()

    def reboot(self) -> None:
        """Reboot it in order, and return when it answers again."""
        before = self._init()
        self.run("systemctl", "reboot", check=False)
        self.wait_until_up(after=before)

    def wait_until_up(self, *, after: int | None = None) -> None:
        """Return once it lets people in; `after`, the process id that its init had before a reboot, no longer counts.

        Raises `TimeoutError` with the last words of its console.
        """
        deadline_s = time.monotonic() + _BOOT_S
        while time.monotonic() < deadline_s:
            init = self._init()
            run = Path(f"/proc/{init}/root/run")
            if init not in (None, after) and (run / "sshd.pid").exists() and not (run / "nologin").exists():
                return
            time.sleep(0.1)
        raise TimeoutError(f"{self.name} does not come up: {self._place.console.read_text(errors='replace')[-800:]}")

    def set_link(self, up: bool) -> None:
        """Plug its network cable in or out. Once in, its SSH is reached again when this returns."""
        self._place.set_link(up)
        # The host remembers for a second or two that there was no way to it.
        deadline = time.monotonic() + 30
        while up and self.ssh("status", check=False).returncode == 255 and time.monotonic() < deadline:
            time.sleep(0.2)

    def run(
        self, *words: str | Path, check: bool = True, input: str | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root at its console. Raises `CalledProcessError` where it fails, unless `check` is False."""
        command = ["nsenter", "-t", str(self._init()), "-m", "-u", "-i", "-p", "-n", "-C", "-r", "-w"]
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        return _run([*command, *environment, *map(str, words)], check=check, input=input, timeout=timeout)

    def agent(self, *words: str | Path, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run the agent as its user at the console."""
        return self.run(*AS_AGENT, *words, check=check, timeout=timeout)

    def ssh(
        self, *words: str, check: bool = True, stdin: Path | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run the agent as its user over the network, as who pushes does."""
        command = ["ssh", *self._options, f"{_USER}@{self.address}", "/opt/edgeseg/agent", *words]
        with (stdin or Path(os.devnull)).open("rb") as stream:
            return _run(command, check=check, stdin=stream, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """Return the agent's status."""
        found: dict[str, Any] = json.loads(self.agent("status").stdout)
        return found

    def configure(self, **changes: Any) -> None:
        """Change the agent's settings, for its next command and the service's next start."""
        path = "/etc/edgeseg/agent.json"
        settings = json.loads((self.root / path[1:]).read_bytes()) | changes
        self.write(path, json.dumps(settings).encode(), 0o640)
        self.run("systemd-tmpfiles", "--create", "edgeseg.conf")

    def push(self, release: Path) -> str:
        """Upload a release over the network and ask for its activation, which goes on by itself; returns its hash."""
        digest = sha256_file(release)
        self.ssh("receive", digest, "--size", str(release.stat().st_size), stdin=release)
        self.ssh("request", digest)
        return digest

    def await_status(self, reached: Callable[[dict[str, Any]], bool], limit_s: float = 120) -> dict[str, Any]:
        """Return the first status that satisfies `reached`, looking once a second. Raises `TimeoutError`."""
        deadline_s = time.monotonic() + limit_s
        while True:
            status = self.status()
            if reached(status):
                return status
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{json.dumps(status)}\n{self.journal('-n', '40')}")
            time.sleep(1)

    def journal(self, *words: str) -> str:
        """Return its log, as `journalctl` shows it with `words`."""
        return self.run("journalctl", "--no-pager", "-o", "cat", *words).stdout

    def write(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Put a file of root's on its disk; it need not run."""
        target = self.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(mode)

    def close(self) -> None:
        """Switch it off and give its place back."""
        self._end(signal.SIGKILL)
        self._place.close()

    def _run_container(self) -> None:
        code = _REBOOTED
        while code == _REBOOTED:
            with self._place.console.open("ab") as console:
                # setpriv: should this process die, the device shuts down.
                self._container = subprocess.Popen(
                    ["setpriv", "--pdeathsig", "TERM", *self._place.command(self.name)],
                    stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
                )  # fmt: skip
            code = self._container.wait()

    def _init(self) -> int | None:
        """Return the process id of its init in this machine's terms, None while there is none."""
        container = self._container
        if container is None or container.poll() is not None:
            return None
        for child in _children(container.pid):
            try:
                status = Path(f"/proc/{child}/status").read_text(encoding="ascii")
            except OSError:
                continue
            numbers = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()
            if numbers[-1] == "1" and len(numbers) > 2:
                return child
        return None

    def _end(self, how: int) -> None:
        if self._thread is None:
            return
        init = self._init()
        if init is not None:
            os.kill(init, how)
        self._thread.join(_BOOT_S)
        if self._thread.is_alive():
            raise TimeoutError(f"{self.name} does not end")
        self._thread = None


class Devices:
    """Devices that share a key to log in with and a list of known hosts; the end of the context ends them all."""

    def __init__(self, folder: Path) -> None:
        self._made: list[Device] = []
        self._agent = folder / "edgeseg-agent"
        write_agent(self._agent)
        self.login_key = folder / "login"
        self.known_hosts = folder / "known_hosts"
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "login", "-f", str(self.login_key)])
        self.known_hosts.touch()
        self.ssh_options = (
            *("-F", "none", "-i", str(self.login_key), "-o", f"UserKnownHostsFile={self.known_hosts}"),
            *("-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"),
        )

    def __enter__(self) -> Devices:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for device in self._made:
            device.close()

    def boot(
        self, name: str, *, signer: Path, settings: Mapping[str, Any] = SETTINGS, disk_mb: int = 1024, on: bool = True
    ) -> Device:
        """Make a device that trusts the releases of `signer` (a public key) and switch it `on`.

        The agent is installed as `edgeseg-agent install` does it, `settings` are the agent's. Root and edgeseg-agent
        may log in with `login_key`.
        """
        place = Place.claim(make_rootfs(), disk_mb)
        device = Device(name, place, self.ssh_options)
        self._made.append(device)
        place.mount()
        _run(["python3", str(self._agent), "install", "--root", str(device.root)])
        login = self.login_key.with_suffix(".pub").read_bytes()
        device.write("/root/.ssh/authorized_keys", login, 0o600)
        device.write("/etc/edgeseg/authorized_keys", login)
        device.write("/etc/edgeseg/allowed_signers", keys.trust_line(signer, signer.stem).encode() + b"\n")
        device.write("/etc/edgeseg/agent.json", json.dumps(settings).encode())
        host_key = device.root / "etc/ssh/ssh_host_ed25519_key"
        _run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(host_key)])
        public = host_key.with_suffix(".pub").read_text(encoding="ascii").split()[:2]
        device.known_host = f"{device.address} {' '.join(public)}"
        with self.known_hosts.open("a", encoding="ascii") as stream:
            stream.write(device.known_host + "\n")
        # A container's own boot id lies over the kernel's in /proc, and what a unit is protected by would uncover that.
        device.write("/etc/tmpfiles.d/boot-id.conf", f"C /run/boot-id - - - - {_BOOT_ID}\n".encode())
        binding = f"[Service]\nBindReadOnlyPaths=-/run/boot-id:{_BOOT_ID}\n"
        for units in ("edgeseg", "edgeseg-"):
            device.write(f"/etc/systemd/system/{units}.service.d/boot-id.conf", binding.encode())
        place.sync()
        if on:
            device.start()
        return device


def _children(parent: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def _run(command: list[str], *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    if options.get("input") is None and "stdin" not in options:
        options["stdin"] = subprocess.DEVNULL
        options.pop("input", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done
