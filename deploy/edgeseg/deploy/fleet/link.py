"""Commands on one device, by OpenSSH's own client.

The person's ~/.ssh/config counts (jump hosts, agents, hardware keys), but for the host keys: they are checked against
the fleet's own list and nothing else.
"""

from __future__ import annotations

import os
import selectors
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterable
from typing import IO, cast

from edgeseg.deploy.fleet.errors import FleetError, OfflineError, RefusedError
from edgeseg.deploy.inventory import Device

_CONNECT_S = 10
_ALIVE_S = 5
"""Silence on the link after which the device is asked whether it is there; three silences lose it."""
_STALL_S = 120
"""An agent that neither takes nor gives anything for so long hangs."""
_SSH_FAILED = 255
_WRONG_USAGE = 2
_BLOCK = 1 << 16


class Link:
    """The way to one device."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def agent(self, *words: str, stdin: Iterable[bytes] = ()) -> str:
        """Run the agent with `words`, feed it `stdin`, and return what it printed.

        Raises `OfflineError` if the device is not there or the link was lost, `RefusedError` with the agent's words,
        or `FleetError` if the host key is wrong, nobody may log in, or there is no agent that knows the command.
        """
        status, output, problem = self._run([*self.device.agent, *words], stdin)
        if status == _WRONG_USAGE:
            raise FleetError(f"the agent does not know {words[0]!r}", fix="install the agent of this edgeseg there")
        if status in (126, 127):
            raise FleetError(f"no agent on the device: {problem}", fix="install it, or set `agent` in the inventory")
        if status:
            raise RefusedError(problem.removeprefix("error: "))
        return output

    def shell(self, words: tuple[str, ...]) -> str:
        """Run any command and return what it printed. Raises as `agent` does."""
        status, output, problem = self._run(list(words), ())
        if status:
            raise RefusedError(f"{words[0]} ended with {status}: {problem}")
        return output

    def _run(self, words: list[str], stdin: Iterable[bytes]) -> tuple[int, str, str]:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as problems:
            try:
                process = subprocess.Popen(
                    [*self._ssh(), shlex.join(words)], stdin=subprocess.PIPE, stdout=output, stderr=problems
                )
            except FileNotFoundError:
                raise FleetError("ssh is not installed", fix="apt-get install openssh-client") from None
            with process:
                try:
                    stalled = not _feed(process, stdin)
                    process.wait(0 if stalled else _STALL_S)
                except subprocess.TimeoutExpired:
                    raise OfflineError(f"{words[-1]} hung for {_STALL_S} s") from None
                finally:
                    process.kill()
            lines = _text(problems).strip().splitlines()
            if process.returncode == _SSH_FAILED:
                raise self._explain(lines)
            return process.returncode, _text(output), lines[-1] if lines else f"status {process.returncode}"

    def _ssh(self) -> list[str]:
        device = self.device
        known_hosts = str(device.known_hosts).replace("%", "%%")
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "ConnectTimeout": str(_CONNECT_S),
            "ServerAliveInterval": str(_ALIVE_S),
            "ClearAllForwardings": "yes",
            "LogLevel": "ERROR",
        }
        command = ["ssh", "-T", "-p", str(device.port), "-l", device.user]
        if device.identity is not None:
            command += ["-i", str(device.identity), "-o", "IdentitiesOnly=yes"]
        for key, value in options.items():
            command += ["-o", f"{key}={value}"]
        return [*command, "--", device.address]

    def _explain(self, lines: list[str]) -> FleetError:
        device, text = self.device, "\n".join(lines)
        name = device.address if device.port == 22 else f"[{device.address}]:{device.port}"
        scan = f"ssh-keyscan -p {device.port} {device.address} >> {device.known_hosts}"
        if "IDENTIFICATION HAS CHANGED" in text:
            return FleetError(
                f"the host key of {name} has changed: another device, or someone in between",
                expected=f"the key in {device.known_hosts}",
                fix=f"if it was set up anew, ssh-keygen -R '{name}' -f {device.known_hosts}; {scan}",
            )
        if "Host key verification failed" in text:
            return FleetError(
                f"the host key of {name} is not known",
                expected=f"it in {device.known_hosts}",
                fix=f"{scan}, once its fingerprint was compared with the device's own",
            )
        if "Permission denied" in text:
            return FleetError(
                f"{device.user} may not log in to {name}",
                fix="put a public key into the device's authorized_keys, or set `user` and `identity`",
            )
        return OfflineError(lines[-1].strip() if lines else "the link was lost")


def _feed(process: subprocess.Popen[bytes], blocks: Iterable[bytes]) -> bool:
    """Write `blocks` as fast as they are taken, and return whether that ended: not if nothing was taken for long.

    A process that stops reading has its reasons, which it tells when it ends.
    """
    sink = cast(IO[bytes], process.stdin)
    os.set_blocking(sink.fileno(), False)
    with sink, selectors.DefaultSelector() as selector:
        selector.register(sink, selectors.EVENT_WRITE)
        for block in blocks:
            rest = memoryview(block)
            while rest:
                deadline_s = time.monotonic() + _STALL_S
                if not selector.select(deadline_s - time.monotonic()):
                    return False
                try:
                    rest = rest[os.write(sink.fileno(), rest[:_BLOCK]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    return True
    return True


def _text(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode("utf-8", "replace")
