"""The service's main process: it runs the release in `current`, feeds systemd's watchdog, and tells how things are.

The release writes lines of JSON to the descriptor that EDGESEG_LIVENESS names, one per stage and second:

    {"stage": "capture", "state": "flowing", "frames": 812}     or "state": "reopening", "present": false
    {"stage": "inference", "golden": 1.0}
    {"stage": "sinks", "frame_age_ms": 41.2}

A stage is alive if it spoke within the limit, whatever it said: a camera that is being reopened is alive. The
watchdog is fed as long as every stage is.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from .config import Config
from .device import Clock
from .engines import engines_folder
from .errors import AgentError
from .health import Health, write_health
from .slots import Slots

_FLOW_S = 10
"""Frames flow if one came within this."""
_TELL_S = 1
_STOP_S = 10
"""How long a release may take to end: less than its unit gives it, for what systemd kills has failed."""
_MAX_LINE = 1 << 16


class Liveness:
    """What the stages said last."""

    def __init__(self, stages: Sequence[str], limit_s: float) -> None:
        self._limit_s = limit_s
        self._heard: dict[str, float | None] = dict.fromkeys(stages)
        self._frames, self._frames_s = 0, -1e9
        self._said: dict[str, Any] = {}

    @property
    def started(self) -> bool:
        """Every stage has spoken once."""
        return None not in self._heard.values()

    def hear(self, line: bytes, now_s: float) -> None:
        """Take in one line; what cannot be read is no sign of life."""
        try:
            said = json.loads(line)
            stage = str(said.pop("stage"))
            frames = int(said.pop("frames", self._frames))
        except (ValueError, TypeError, KeyError, AttributeError):
            return
        if stage in self._heard:
            self._heard[stage] = now_s
        if frames != self._frames:
            self._frames, self._frames_s = frames, now_s
        self._said.update(said)

    def silent(self, now_s: float) -> list[str]:
        """Return the stages that were silent for too long, or have not spoken yet."""
        return [name for name, at_s in self._heard.items() if at_s is None or now_s - at_s > self._limit_s]

    def health(self, release: str, boot_id: str, now_s: float) -> Health:
        """Return the report for this instant."""
        flowing = now_s - self._frames_s <= _FLOW_S and self._said.get("state") != "reopening"
        present = self._said.get("present")
        return Health(
            release=release,
            boot_id=boot_id,
            told_s=now_s,
            alive=not self.silent(now_s),
            flowing=flowing,
            frames=self._frames,
            present=present if isinstance(present, bool) else None,
            frame_age_ms=_number(self._said.get("frame_age_ms")),
            golden=_number(self._said.get("golden")),
        )


def serve(config: Config, clock: Clock) -> int:
    """Run the current release until it ends, and return its exit status; 0 if it was told to, by TERM."""
    slots = Slots(config.root)
    slot = slots.current  # read once: whatever the link does later, all of this run comes from one slot
    release = slots.descriptor(slot) if slot else None
    if slot is None or release is None:
        raise AgentError("no version is installed", fix="push a release")
    reader, writer = os.pipe()
    words = [word.replace("{slot}", str(slots.path(slot))) for word in config.serve]
    environment = {**os.environ, "EDGESEG_LIVENESS": str(writer)}
    if config.build:
        environment["XDG_CACHE_HOME"] = str(engines_folder(config, release))
    environment.pop("NOTIFY_SOCKET", None)
    try:
        child = subprocess.Popen(words, pass_fds=(writer,), env=environment)
    except OSError as error:
        raise AgentError(f"{words[0]} cannot be run ({error.strerror})") from None
    os.close(writer)
    told_to_stop = []

    def stop(*_: object) -> None:
        told_to_stop.append(True)
        child.terminate()
        signal.alarm(_STOP_S)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, lambda *_: child.kill())
    with open(reader, "rb", buffering=0) as stream:  # noqa: PTH123
        _watch(stream.fileno(), child, Liveness(config.stages, config.stage_limit_s), release.digest, config, clock)
    status = child.wait()
    # However a release ends that was told to: were it a failure, systemd would count the switch from it as one.
    return 0 if told_to_stop else status


def notify(message: str) -> None:
    """Tell systemd, if it listens. One datagram, as sd_notify(3) describes."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(message.encode())


def _watch(
    source: int, child: subprocess.Popen[bytes], liveness: Liveness, digest: str, config: Config, clock: Clock
) -> None:
    rest, ready, boot_id, told_s = b"", False, clock.boot_id(), -1e9
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while True:
            if selector.select(_TELL_S):
                data = os.read(source, _MAX_LINE)
                if not data:
                    return _await_end(child, config)
                *lines, rest = (rest + data)[-_MAX_LINE:].split(b"\n")
                for line in lines:
                    liveness.hear(line, clock.monotonic())
            now_s = clock.monotonic()
            if now_s - told_s < _TELL_S:
                continue
            told_s = now_s
            write_health(config.health, liveness.health(digest, boot_id, now_s))
            silent = liveness.silent(now_s)
            if liveness.started and not ready:
                notify("READY=1")
                ready = True
            notify(f"STATUS={'no word from ' + ', '.join(silent) if silent else 'all stages are alive'}")
            if ready and not silent:
                notify("WATCHDOG=1")


def _await_end(child: subprocess.Popen[bytes], config: Config) -> None:
    # Nobody is left to speak: the release is ending, or has closed its ears and will be no use.
    deadline_s = time.monotonic() + config.stage_limit_s
    while child.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    child.kill()


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None
