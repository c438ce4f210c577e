"""One emulated computer: a root shell on its serial console, and a plug that can be pulled."""

from __future__ import annotations

import json
import os
import re
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

_RESTORED_S = 300


class MachineError(AssertionError):
    """The computer did not do what it was asked for; the end of its console is in the message."""


class Machine:
    """A running `qemu-system-aarch64`. Leaving the context is a power cut too."""

    def __init__(
        self,
        folder: Path,
        *,
        kernel: Path,
        initrd: Path,
        drives: Sequence[str],
        append: str = "",
        memory_mb: int = 1024,
        cpus: int = 1,
        saved: Path | None = None,
        ssh_port: int | None = None,
    ) -> None:
        """Start it. `drives` are the block options; `saved` is a state of `save` to go on from."""
        control = folder / "qmp"
        control.unlink(missing_ok=True)
        forward = f",hostfwd=tcp:127.0.0.1:{ssh_port}-:22" if ssh_port else ""
        command = [
            *("nice", "-n", "10", "qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57", "-nodefaults"),
            *("-accel", "tcg,thread=multi", "-smp", str(cpus), "-m", str(memory_mb), "-display", "none"),
            *("-serial", "stdio", "-qmp", f"unix:{control},server=on,wait=off"),
            *("-kernel", str(kernel), "-initrd", str(initrd)),
            *("-append", f"console=ttyAMA0 root=/dev/vda rw quiet loglevel=1 systemd.show_status=0 {append}"),
            *drives,
            # A request to zero or discard is logged in two pieces by qemu 7, which a cut could tear.
            *("-device", "virtio-blk-pci,drive=disk,discard=off,write-zeroes=off"),
            *("-netdev", f"user,id=net,restrict=on{forward}", "-device", "virtio-net-pci,netdev=net,romfile="),
        ]
        if saved is not None:
            command += ["-incoming", f"exec:cat {saved}"]
        self._control = control
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._console = b""
        self._asked = 0
        if saved is not None:
            self._await_restored()

    def __enter__(self) -> Machine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()

    def cut(self) -> None:
        """Pull the plug. What the guest has not flushed may be lost: the disk's owner decides (see `volatile`)."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def expect(self, pattern: str, timeout_s: float) -> re.Match[bytes]:
        """Wait until the console shows `pattern`, and forget what it showed up to there."""
        deadline = time.monotonic() + timeout_s
        while (found := re.search(pattern.encode(), self._console)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise MachineError(f"no {pattern!r} within {timeout_s:.0f} s: {self.tail()}")
        self._console = self._console[found.end() :]
        return found

    def send(self, command: str) -> None:
        """Type a shell command, and wait for nothing."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    def run(self, command: str, timeout_s: float = 300, *, check: bool = True) -> str:
        """Run a shell command as root and return what it prints."""
        self._asked += 1
        self.send(f"{{ {command} ; }} </dev/null 2>&1; printf '@%s-%s-%s@\\n' end {self._asked} $?")
        found = self.expect(rf"(?s)^(.*?)@end-{self._asked}-(\d+)@\r?\n", timeout_s)
        output = found[1].decode(errors="replace").replace("\r\n", "\n").strip()
        if check and found[2] != b"0":
            raise MachineError(f"{command} ended with {found[2].decode()}: {output[-2000:]}")
        return output

    def save(self, state: Path) -> None:
        """Stop the computer and write its memory to `state`; its disk is then what it was at that moment."""
        with self._monitor() as monitor:
            _ask(monitor, "stop")
            _ask(monitor, "migrate-set-parameters", {"max-bandwidth": 1 << 32})
            _ask(monitor, "migrate", {"uri": f"exec:cat > {state}"})
            while (status := _ask(monitor, "query-migrate").get("status")) != "completed":
                assert status in ("setup", "active", "device"), status
                time.sleep(0.2)

    def _await_restored(self) -> None:
        # What is typed before is lost.
        deadline = time.monotonic() + _RESTORED_S
        while not self._control.exists():
            assert time.monotonic() < deadline and self._process.poll() is None, "qemu did not start"
            time.sleep(0.05)
        with self._monitor() as monitor:
            while _ask(monitor, "query-status")["status"] == "inmigrate":
                assert time.monotonic() < deadline, "the saved state was not taken up"
                time.sleep(0.05)
            _ask(monitor, "cont")

    @contextmanager
    def _monitor(self) -> Iterator[Any]:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(str(self._control))
            with link.makefile("rw") as stream:
                json.loads(stream.readline())
                _ask(stream, "qmp_capabilities")
                yield stream

    def tail(self) -> str:
        """Return the end of what the console showed."""
        return self._console[-3000:].decode(errors="replace")

    def _read(self, timeout_s: float) -> bool:
        if not self._selector.select(timeout_s):
            return False
        assert self._process.stdout is not None
        data = self._process.stdout.read(1 << 16)
        if not data:
            raise MachineError(f"qemu ended with {self._process.wait()}: {self.tail()}")
        self._console += data
        return True


def plain_drive(disk: Path) -> list[str]:
    """Return qemu's options for a raw `disk`."""
    return [
        *("-blockdev", f"driver=file,node-name=file,filename={disk}"),
        *("-blockdev", "driver=raw,node-name=disk,file=file"),
    ]


def _ask(stream: Any, command: str, arguments: dict[str, Any] | None = None) -> dict[str, Any]:
    stream.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
    stream.flush()
    while True:
        answer = json.loads(stream.readline())
        if "error" in answer:
            raise MachineError(f"{command}: {answer['error']}")
        if "return" in answer:
            found: dict[str, Any] = answer["return"]
            return found
