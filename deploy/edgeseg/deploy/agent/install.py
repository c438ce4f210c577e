"""Put the agent and its units into a file system: this device's, or an image's that has yet to boot.

Users and folders are described, not made, in an image: systemd makes them at its first boot. An image can therefore
be of another architecture than the machine that it is made on.
"""

from __future__ import annotations

import os
import subprocess
from importlib import resources
from pathlib import Path

from .errors import AgentError
from .files import write_whole

_PLACES = {
    ".sysusers": "usr/lib/sysusers.d/edgeseg.conf",
    ".tmpfiles": "usr/lib/tmpfiles.d/edgeseg.conf",
    ".journald": "etc/systemd/journald.conf.d/edgeseg.conf",
    ".sshd": "etc/ssh/sshd_config.d/edgeseg.conf",
}
_UNITS = "etc/systemd/system"
_LIVE = (
    ("systemd-sysusers", "edgeseg.conf"),
    ("systemd-tmpfiles", "--create", "edgeseg.conf"),
    ("systemctl", "daemon-reload"),
    ("systemctl", "restart", "systemd-journald.service"),
    ("systemctl", "try-reload-or-restart", "ssh.service"),
)


def install(root: Path) -> str:
    """Install below `root` and return one line for a person; again, it replaces the agent and the units.

    With `root` "/" the users are made and the units started too. Settings that are there stay as they are. Raises
    `AgentError` if this is not the agent's single file, or systemd refuses.
    """
    program = Path(__file__).parents[1]
    if not program.is_file():
        raise AgentError("only the agent's single file can be installed", fix="edgeseg deploy agent --out FILE")
    _place(root / "opt/edgeseg/agent", program.read_bytes(), 0o755)
    started = []
    for item in (resources.files(__package__) / "units").iterdir():
        data = item.read_bytes()
        _place(root / _PLACES.get(Path(item.name).suffix, f"{_UNITS}/{item.name}"), data, 0o644)
        for target in _wanted_by(data):
            _link(root / _UNITS / f"{target}.wants" / item.name)
            started.append(item.name)
    settings = root / "etc/edgeseg/agent.json"
    if not settings.exists():
        _place(settings, b"{}\n", 0o640)
    if root.resolve() == Path("/"):
        for command in (*_LIVE, ("systemctl", "start", *started)):
            if subprocess.run(command, check=False, timeout=300).returncode:
                raise AgentError(f"{' '.join(command)} failed", fix="see its words above")
    else:
        (root / "etc/.updated").unlink(missing_ok=True)  # so that the first boot makes the users
    return f"the agent is installed in {root}"


def _wanted_by(data: bytes) -> list[str]:
    lines = data.decode("utf-8").splitlines()
    return [line.partition("=")[2].strip() for line in lines if line.startswith("WantedBy=")]


def _place(path: Path, data: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
    path.chmod(mode)


def _link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.path.lexists(path):
        path.symlink_to(f"/{_UNITS}/{path.name}")
