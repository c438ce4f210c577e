"""Devices behind real sshd processes, over links that the tests cut, stall, slow and listen to.

A device is the `Bench` of these tests with an sshd in front: each connection that reaches its port is handed to an
`sshd -i` of its own. What systemd does on a device is done by a thread here: it fulfils requests as they come and lives
through the trial.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.deploy.conftest import Bench, Makers

from edgeseg.deploy.agent.config import Config
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.agent.push import assemble, read_content, read_progress
from edgeseg.deploy.agent.requests import fulfil, request
from edgeseg.deploy.fleet.link import Link
from edgeseg.deploy.fleet.offer import Offer
from edgeseg.deploy.inventory import Device
from edgeseg.runtime.files import sha256_file

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")
_BLOCK = 1 << 14


class Line:
    """The network before one device: a port that hands connections to sshd, bytes counted on their way in."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.received = 0
        self.connections = 0
        self.on_block: Callable[[int], object] = _ignore
        """Called with the bytes that came in through a connection, before the last of them are handed on."""
        self.down = False
        self.refuse = 0
        """So many connections to come are refused."""
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Break all connections."""
        for end in list(self._open):
            _break(end)

    def cut_once(self) -> None:
        """Break all connections, and listen to no more blocks."""
        self.on_block = _ignore
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                outer, _ = self._server.accept()
            except OSError:
                return
            if self.down or self.refuse:
                self.refuse = max(0, self.refuse - 1)
                outer.close()
                continue
            self.connections += 1
            inner, theirs = socket.socketpair()
            with theirs:
                process = subprocess.Popen(
                    self._command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.DEVNULL
                )
            self._open |= {outer, inner}
            threading.Thread(target=self._carry, args=(outer, inner), daemon=True).start()
            threading.Thread(target=self._bring_back, args=(inner, outer, process), daemon=True).start()

    def _carry(self, outer: socket.socket, inner: socket.socket) -> None:
        came = 0
        with suppress(OSError):
            while block := outer.recv(_BLOCK):
                came += len(block)
                self.received += len(block)
                self.on_block(came)
                inner.sendall(block)
            inner.shutdown(socket.SHUT_WR)

    def _bring_back(self, inner: socket.socket, outer: socket.socket, process: subprocess.Popen[bytes]) -> None:
        with suppress(OSError):
            while block := inner.recv(_BLOCK):
                outer.sendall(block)
        for end in (inner, outer):
            self._open.discard(end)
            _break(end)
            end.close()
        process.wait()


class FleetDevice:
    """One device of a fleet. `fate` is what becomes of releases there: `good`, `bad` or `hold` (until `let_go`)."""

    def __init__(self, name: str, folder: Path, makers: Makers, keys: Path) -> None:
        self.name, self.fate = name, "good"
        folder.mkdir()
        self.bench = Bench(folder, makers)
        self.bench.config.root.mkdir()
        self.let_go = threading.Event()
        self.on_trial = threading.Event()
        self.settled = threading.Event()
        self._fifo = folder / "asked"
        os.mkfifo(self._fifo)
        self.script = folder / "agent.sh"
        self.write_script()
        self.line = Line(_sshd(folder, keys, name))
        self.host_key = (keys / f"{name}.pub").read_text("utf-8").rsplit(" ", 1)[0]
        self._ended = False
        self._life = threading.Thread(target=self._live, daemon=True)
        self._life.start()

    def write_script(self, before: str = "") -> None:
        """(Re)write the device's agent command. A request wakes the device up; `before` runs ahead of each command."""
        words = " ".join(f"'{word}'" for word in self.bench.command())
        self.script.write_text(
            f'{before}\n{words} "$@" || exit $?\ncase "$1" in request) echo x > {self._fifo};; esac\n', "utf-8"
        )

    def inventory(self, known_hosts: Path, **fields: Any) -> Device:
        fields = {"agent": ("sh", str(self.script)), "port": self.line.port, "user": getpass.getuser(), **fields}
        return Device(name=self.name, address="127.0.0.1", known_hosts=known_hosts, **fields)

    def await_upload(self, size: int) -> None:
        """Wait until so many bytes of an upload are on the device's disk."""
        while not any(path.stat().st_size >= size for path in self.bench.config.root.glob("incoming/*.partial")):
            time.sleep(0.02)

    def partial_under_final_name(self, offer: Offer) -> bool:
        """Tell whether a file has the name of a whole release and is none."""
        names = list(self.bench.config.root.glob("incoming/*.release"))
        return any(sha256_file(path) != path.stem or path.stem != offer.sha256 for path in names)

    def wake(self) -> None:
        """Let systemd notice what was asked for."""
        self._fifo.write_bytes(b"x")

    def close(self) -> None:
        self._ended = True
        self.let_go.set()
        self.wake()
        self._life.join(10)
        self.line.close()

    def _live(self) -> None:
        while True:
            self._fifo.read_bytes()  # blocks until somebody writes
            if self._ended:
                return
            self.settled.clear()
            with suppress(AgentError):
                fulfil(self.bench.config, self.bench.agent())
                self.bench.agent().guard()
                self.on_trial.set()
                if self.fate == "hold":
                    self.let_go.wait(60)
                self.bench.live(self.bench.config.probation_s + 30, **({"golden": 0.1} if self.fate == "bad" else {}))
            self.settled.set()


class NearLink(Link):
    """The agent without the connection and without a process of its own: for what the connection does not change."""

    def __init__(self, device: FleetDevice) -> None:
        super().__init__(device.inventory(Path("unused")))
        self._near = device

    def _run(self, words: list[str], stdin: Iterable[bytes]) -> tuple[int, str, str]:
        near, config = self._near, self._near.bench.config
        command, *rest = words[len(self.device.agent) :]
        with tempfile.TemporaryFile() as file:
            file.writelines(stdin)
            file.seek(0)
            try:
                output = _ask_agent(config, command, rest, file.fileno())
            except AgentError as error:
                return 1, "", f"error: {error}"
        if command == "request":
            near.wake()
        return 0, json.dumps(output), ""


class Fleet:
    """Devices by name, and the inventory of them."""

    def __init__(self, folder: Path, makers: Makers, keys: Path) -> None:
        self.folder, self.keys, self._makers = folder, keys, makers
        self.devices: dict[str, FleetDevice] = {}
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.touch()

    def add(self, name: str) -> FleetDevice:
        device = FleetDevice(name, self.folder / name, self._makers, self.keys)
        self.devices[name] = device
        with self.known_hosts.open("a", encoding="utf-8") as stream:
            stream.write(f"[127.0.0.1]:{device.line.port} {device.host_key}\n")
        return device

    def renew(self, name: str) -> FleetDevice:
        """Replace a device by a fresh one with the same name and key."""
        self.devices.pop(name).close()
        shutil.rmtree(self.folder / name)
        return self.add(name)

    def write_inventory(self, **fields: str) -> Path:
        """Write fleet.toml; `fields` are lines of TOML for the devices of these names."""
        lines = ["[variables]", f'user = "{getpass.getuser()}"', f'identity = "{self.keys / "person"}"']
        for name, device in self.devices.items():
            lines += [f"[devices.{name}]", 'address = "127.0.0.1"', f"port = {device.line.port}"]
            lines += [f'agent = ["sh", "{device.script}"]', f'logs = ["echo", "{name} said {{lines}}"]']
            lines += [fields.get(name, "")]
        path = self.folder / "fleet.toml"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        return path

    def close(self) -> None:
        for device in self.devices.values():
            device.close()


def _ask_agent(config: Config, command: str, words: list[str], stdin: int) -> object:
    if command == "progress":
        return read_progress(config, *words)
    if command == "content":
        return read_content(config)
    if command == "request":
        return request(config, *words)
    sha256, _, size, _, offset = words
    return assemble(config, stdin, sha256=sha256, size=int(size), offset=int(offset))


_STAND_IN = r"""#!/bin/sh
# ssh -T ... -- DEVICE 'AGENT COMMAND ...': a device that ends as the file of its name says
while [ "$1" != -- ]; do shift; done
device=$2
set -- $3
cd FOLDER
echo "$device ${2:-$1} $PPID" >> said
cat > /dev/null
read -r fate digest < "$device"
case "$fate" in
    off) echo "connection refused" >&2; exit 255 ;;
    locked) echo "Permission denied" >&2; exit 255 ;;
    full) echo "error: no room" >&2; exit 1 ;;
    dead) kill -9 $PPID; exit 1 ;;
esac
good= failed=
if [ -e "$device.asked" ]; then
    [ "$fate" != good ] || good=", \"good\": {\"digest\": \"$digest\"}"
    [ "$fate" != bad ] || failed="\"$digest\": \"it broke\""
fi
case "$2" in
    content) echo "{}" ;;
    status) cat "$device.status" ;;
    progress)
        echo '{"asked": false, "offset": 0, "whole": false, "sending": false, "on_trial": false, "free": 1000000000,'
        echo "\"reclaimable\": 0, \"failed\": {$failed}$good}" ;;
    request) touch "$device.asked" ;;
    *) echo "$@" ;;
esac
"""


class StandIns:
    """Many devices that answer from a table, by a program that takes the place of ssh on PATH in `folder`/bin."""

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder, self._digest = folder, digest
        self.programs = folder / "bin"
        self.programs.mkdir(parents=True)
        program = self.programs / "ssh"
        program.write_text(_STAND_IN.replace("FOLDER", str(folder)), "utf-8")
        program.chmod(0o755)

    def add(self, name: str, fate: str, **status: Any) -> None:
        """Add a device that is `good`, `bad`, `off`, `locked`, `full`, or `dead`, which takes the pusher along."""
        (self._folder / name).write_text(f"{fate} {self._digest}\n", "utf-8")
        (self._folder / f"{name}.status").write_text(json.dumps({"on_trial": False, "last": "", **status}), "utf-8")

    def said(self) -> list[tuple[str, str, int]]:
        """Return which device was told what by which process, in order."""
        path = self._folder / "said"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        return [(device, word, int(process)) for device, word, process in map(str.split, lines)]

    def requested(self) -> list[str]:
        """Return the devices that were asked to activate it, in order."""
        return [device for device, word, _ in self.said() if word == "request"]


def content(folder: Path, **files: int) -> Path:
    """Make a wheelhouse of files of random bytes: the same name and size give the same bytes."""
    folder.mkdir()
    for name, size in files.items():
        (folder / name).write_bytes(random.Random(f"{name} {size}").randbytes(size))
    return folder


def make_keys(folder: Path) -> None:
    """Make the person's key and the devices' host keys, once."""
    for name in ("person", "one", "two", "three"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)


def _sshd(folder: Path, keys: Path, name: str) -> list[str]:
    config = folder / "sshd_config"
    lines = [
        f"HostKey {keys / name}", f"AuthorizedKeysFile {keys / 'person.pub'}", "StrictModes no", "UsePAM no",
        "PidFile none", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "LogLevel ERROR",
        "KexAlgorithms curve25519-sha256", "PrintMotd no", "PrintLastLog no",
    ]  # fmt: skip
    config.write_text("\n".join(lines) + "\n", "utf-8")
    return [str(SSHD), "-i", "-e", "-f", str(config)]


def _ignore(_: int) -> None:
    """Nobody listens."""


def _break(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
