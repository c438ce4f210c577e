"""Users and groups of a root file system that does not run: its own four files, as text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgeseg.deploy.errors import DeployError

_SYSTEM_IDS = range(999, 99, -1)
_HUMAN_IDS = range(1000, 60000)
_NOLOGIN = "/usr/sbin/nologin"
_DAYS = 20000
"""Day of the last change of a password: any fixed one, so that the same inputs give the same bytes."""


@dataclass(frozen=True, kw_only=True)
class Accounts:
    """The text of /etc/passwd, group, shadow and gshadow; the last two are None where there are none."""

    passwd: str
    group: str
    shadow: str | None
    gshadow: str | None

    def ids(self, name: str) -> tuple[int, int]:
        """Return user and group id of the user `name`. Raises `DeployError` if there is none."""
        fields = _find(self.passwd, name)
        if fields is None or len(fields) < 4:
            raise DeployError(f"the root file system has no user {name}")
        return int(fields[2]), int(fields[3])

    def home(self, name: str) -> str:
        """Return the home folder of the user `name`."""
        fields = _find(self.passwd, name)
        if fields is None or len(fields) < 6:
            raise DeployError(f"the root file system has no user {name}")
        return fields[5]

    def gid(self, name: str) -> int:
        """Return the id of the group `name`. Raises `DeployError` if there is none."""
        fields = _find(self.group, name)
        if fields is None:
            raise DeployError(f"the root file system has no group {name}")
        return int(fields[2])

    def has_group(self, name: str) -> bool:
        """Tell whether the group `name` is there."""
        return _find(self.group, name) is not None

    def with_group(self, name: str, *, system: bool = True) -> Accounts:
        """Return these with the group `name`; one that is there already stays as it is."""
        if self.has_group(name):
            return self
        number = _free(_SYSTEM_IDS if system else _HUMAN_IDS, self.passwd, self.group)
        return replace(
            self,
            group=_added(self.group, f"{name}:x:{number}:"),
            gshadow=None if self.gshadow is None else _added(self.gshadow, f"{name}:!::"),
        )

    def with_user(
        self, name: str, *, group: str, home: str, about: str = "", shell: str = _NOLOGIN, system: bool = True
    ) -> Accounts:
        """Return these with the user `name` of the existing `group`; one that is there already stays as it is.

        No password opens the account. One with a shell is no locked one either, which sshd would refuse with keys too.
        """
        if _find(self.passwd, name) is not None:
            return self
        gid = self.gid(group)
        number = gid if _unused(gid, self.passwd) else _free(_SYSTEM_IDS if system else _HUMAN_IDS, self.passwd)
        password = "!*" if shell == _NOLOGIN else "*"
        return replace(
            self,
            passwd=_added(self.passwd, f"{name}:x:{number}:{gid}:{about}:{home}:{shell}"),
            shadow=None if self.shadow is None else _added(self.shadow, f"{name}:{password}:{_DAYS}:0:99999:7:::"),
        )

    def with_member(self, user: str, group: str) -> Accounts:
        """Return these with `user` among the members of `group`, which must be there."""
        gshadow = None if self.gshadow is None else _joined(self.gshadow, group, user)
        return replace(self, group=_joined(self.group, group, user), gshadow=gshadow)


def _find(text: str, name: str) -> list[str] | None:
    return next((line.split(":") for line in text.splitlines() if line.split(":", 1)[0] == name), None)


def _added(text: str, line: str) -> str:
    return text + ("" if text.endswith("\n") or not text else "\n") + line + "\n"


def _joined(text: str, group: str, user: str) -> str:
    lines = []
    for line in text.splitlines():
        head, _, members = line.rpartition(":")
        if line.split(":", 1)[0] == group and user not in members.split(","):
            line = f"{head}:{members},{user}" if members else f"{head}:{user}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _numbers(text: str) -> set[int]:
    fields = (line.split(":") for line in text.splitlines())
    return {int(words[2]) for words in fields if len(words) > 2 and words[2].isdecimal()}


def _unused(number: int, passwd: str) -> bool:
    return number not in _numbers(passwd)


def _free(candidates: range, *texts: str) -> int:
    taken = set().union(*map(_numbers, texts))
    number = next((number for number in candidates if number not in taken), None)
    if number is None:
        raise DeployError("the root file system has no free user or group number left")
    return number
