"""Many devices at a time, by Ansible: it starts a door for each of them, so many at once, canaries first.

It is run as a program with a playbook and an inventory made for this one command; a person's own settings of it have
no part in that. One device needs no engine: its door is started as it is.
"""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.fleet.board import Board
from edgeseg.deploy.fleet.door import DONE, LATER, Job
from edgeseg.deploy.inventory import Device

_PROGRAM = "ansible-playbook"
_LOOK_S = 0.1
_DOOR = (sys.executable, "-m", "edgeseg.deploy.fleet.door")
# Words reach the shell through the environment: what Ansible reads it takes for a template.
_TRY = 'test -e stop || exec "$EDGESEG_PYTHON" -m edgeseg.deploy.fleet.door {{ inventory_hostname }}'


def run(
    job: Job,
    devices: Sequence[Device],
    heard: Callable[[dict[str, Any]], None],
    *,
    canaries: Collection[str] = (),
    failing_canaries: int = 0,
    parallel: int = 16,
) -> str:
    """Do `job` with each of `devices`, `parallel` at a time, and return why some were not begun, or nothing.

    `heard` gets each line that the job's doors note on the board, as it comes. The devices named in `canaries` are
    done with before any other is begun, and if more than `failing_canaries` of them or all fail, none is. A door that
    puts the device off (`LATER`) is tried a second time when every other one of its wave has had a turn.

    Raises `DeployError` if there is no Ansible for several devices, or if it did not begin.
    """
    command = [*_DOOR, devices[0].name] if len(devices) == 1 else [_ansible(), "-f", str(parallel), "-i", "hosts.json"]
    with tempfile.TemporaryDirectory(prefix="edgeseg-fleet-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        board = Board(folder)
        (folder / "job").write_bytes(pickle.dumps((job, {device.name: device for device in devices})))
        if len(devices) > 1:
            command.append(_write_play(folder, [device.name for device in devices], canaries, failing_canaries))
        with (folder / "alive").open("wb") as alive, (folder / "output").open("w+b") as output:
            fcntl.flock(alive, fcntl.LOCK_EX)
            anybody = _follow(command, folder, output.fileno(), board, heard)
            output.seek(0)
            lines = output.read().decode("utf-8", "replace").strip().splitlines()
        if not anybody:
            raise DeployError(f"no device was begun: {lines[-1] if lines else 'no word from ' + Path(command[0]).name}")
        return board.reason()


def _follow(
    command: Sequence[str], folder: Path, output: int, board: Board, heard: Callable[[dict[str, Any]], None]
) -> bool:
    """Run `command`, hand on what comes to the board, and return whether anything did."""
    anybody, ended = False, False
    with subprocess.Popen(
        command, cwd=folder, env=_environment(folder), stdin=subprocess.DEVNULL, stdout=output, stderr=output
    ) as process:
        try:
            while not ended:
                try:
                    process.wait(_LOOK_S)
                    ended = True
                except subprocess.TimeoutExpired:
                    pass
                for entry in board.news():
                    anybody = True
                    heard(entry)
        except BaseException:
            process.kill()  # the doors go with the lock
            raise
    return anybody


def _write_play(folder: Path, names: Sequence[str], canaries: Collection[str], failing_canaries: int) -> str:
    """Write Ansible's inventory and playbook, and return the playbook's name."""
    waves = {
        "canaries": [name for name in names if name in canaries],
        "others": [name for name in names if name not in canaries],
    }
    groups: dict[str, Any] = {
        wave: {"hosts": {name: {} for name in members}} for wave, members in waves.items() if members
    }
    plays: list[dict[str, Any]] = [_play(wave) for wave in groups]
    if "canaries" in groups:
        # Half a canary above what is allowed, so that no rounding decides.
        plays[0]["max_fail_percentage"] = 100 * (failing_canaries + 0.5) / len(waves["canaries"])
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": groups}}), encoding="utf-8")
    (folder / "play.json").write_text(json.dumps(plays), encoding="utf-8")
    (folder / "ansible.cfg").write_text("[inventory]\nenable_plugins = ansible.builtin.yaml\n", encoding="utf-8")
    return "play.json"


def _play(wave: str) -> dict[str, Any]:
    door = {"register": "door", "failed_when": f"door.rc not in ({DONE}, {LATER})"}
    tries = [{"raw": f"{_TRY} first", **door}, {"raw": _TRY, "when": f"door.rc == {LATER}"}]
    return {"hosts": wave, "gather_facts": False, "connection": "local", "tasks": tries}


def _environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {
        **kept,
        "LC_ALL": "C.UTF-8",  # it takes no other encoding
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(folder / "ansible" / "tmp"),
        "EDGESEG_PYTHON": sys.executable,
    }


def _ansible() -> str:
    places = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    program = shutil.which(_PROGRAM, path=places)
    if program is None:
        raise DeployError(
            "Ansible, which reaches several devices, is not installed",
            expected="ansible-playbook",
            fix="pip install 'edgeseg[fleet]'; one device at a time (--limit) needs none",
        )
    return program
