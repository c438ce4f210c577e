"""Engines are made by the user that runs them: they are sealed with a key that nobody else can read.

The agent cannot become that user. It asks at a socket, and for each question systemd starts `agent build` as the
service's user, which ends when the asker does. Engines lie in a folder for each release, which the service reads and
cannot change; those of releases that are in no slot any more are removed.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from .config import Config
from .descriptor import Descriptor
from .errors import AgentError
from .slots import NAMES, Slots

_DONE = "built"
_MAX_ANSWER = 4096


def ask_to_build(config: Config, slot: str) -> None:
    """Have the engines of the release in `slot` made, and return when they are. Raises `AgentError` if they are not.

    Nothing is asked where the settings name nothing to build.
    """
    if not config.build:
        return
    limit_s = config.prepare_timeout_s
    try:
        with socket.socket(socket.AF_UNIX) as asker:
            asker.settimeout(limit_s)
            asker.connect(str(config.builder))
            asker.sendall(f"{slot}\n".encode())
            answer = _read_line(asker)
    except TimeoutError:
        answer = f"took longer than {limit_s:g} s"
    except OSError as error:
        raise AgentError(
            f"nobody builds engines at {config.builder} ({error.strerror})",
            fix="systemctl enable --now edgeseg-engines.socket",
        ) from None
    if answer != _DONE:
        raise AgentError(
            f"building engines failed: {answer or 'the builder died'}", fix="journalctl -u 'edgeseg-engines@*' has more"
        )


def build(config: Config, asker: socket.socket) -> int:
    """Make the engines that `asker` names a slot for, and answer in one line. Returns the exit status."""
    answer = _build(config, asker)
    try:
        asker.sendall(f"{answer}\n".encode())
    except OSError:
        return 1  # nobody waits any more
    return 0 if answer == _DONE else 1


def engines_folder(config: Config, release: Descriptor) -> Path:
    """Return where the engines of `release` are: its XDG_CACHE_HOME."""
    return config.engines / release.digest[:16]


def _build(config: Config, asker: socket.socket) -> str:
    slot, slots = _read_line(asker), Slots(config.root)
    release = slots.descriptor(slot) if slot in NAMES else None
    if release is None:
        return f"slot {slot[:12]!r} holds no release"
    folder = engines_folder(config, release)
    kept = {found.digest[:16] for name in NAMES if (found := slots.descriptor(name))}
    for other in config.engines.iterdir():
        if other.name not in kept:
            shutil.rmtree(other)
    folder.mkdir(exist_ok=True)
    for command in config.build:
        words = [word.replace("{slot}", str(slots.path(slot))) for word in command]
        environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
        try:
            # Its words go to the log: standard output is the asker's.
            child = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd="/")
        except OSError as error:
            return f"{words[0]} cannot be run ({error.strerror})"
        if (status := _await(child, asker)) != 0:
            return f"{words[0]} ended with status {status}"
    return _DONE


def _await(child: subprocess.Popen[bytes], asker: socket.socket) -> int:
    with child:
        while child.poll() is None:
            readable, _, _ = select.select([asker], [], [], 0.2)
            if readable:  # the asker has nothing more to say: it is gone
                child.kill()
        return child.returncode


def _read_line(stream: socket.socket) -> str:
    data = b""
    while b"\n" not in data and len(data) < _MAX_ANSWER and (more := stream.recv(_MAX_ANSWER)):
        data += more
    return data.partition(b"\n")[0].decode("utf-8", "replace")
