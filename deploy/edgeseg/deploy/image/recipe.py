"""What makes a root file system a device: accounts, the agent, its units, a first release, the first boot's job.

Nothing of the root file system is run. The release is left as one that was uploaded and asked for: at the first boot
the agent itself verifies it, unpacks it to slot a, prepares it (engines are built on the device) and tries it.
"""

from __future__ import annotations

import re
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edgeseg.deploy.agent.archive import open_archive
from edgeseg.deploy.agent.config import load_config
from edgeseg.deploy.agent.descriptor import NAMESPACE, Descriptor, format_time
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.agent.signature import verify_signature
from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.image.accounts import Accounts
from edgeseg.deploy.image.rootfs import call
from edgeseg.deploy.image.tree import Item, Tree
from edgeseg.deploy.release import write_agent
from edgeseg.runtime.files import sha256_file

_UNITS = "/etc/systemd/system"
_ROOT = "/var/lib/edgeseg"
_OWN = ("edgeseg", "edgeseg-agent")
_NEEDED = {
    "/usr/bin/ssh-keygen": "openssh-client",
    "/usr/bin/systemctl": "systemd",
}
_PUBLIC_KEY = re.compile(r"(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is put into a root file system."""

    release: Path
    trust: Path
    """A folder with `allowed_signers` and, where keys were revoked, `revoked_keys`."""
    user: str
    """Who logs in over SSH, with one of `ssh_keys` and no password. The same keys may push, as edgeseg-agent."""
    ssh_keys: tuple[Path, ...]
    settings: Path | None = None
    """The agent's settings; None takes the defaults."""


def check_release(recipe: Recipe) -> Descriptor:
    """Return the release's descriptor, judged as a device judges it: signature, hashes, expiry.

    Raises `DeployError` if a device would refuse it.
    """
    allowed, revoked = recipe.trust / "allowed_signers", recipe.trust / "revoked_keys"
    now = int(time.time())
    try:
        with open_archive(recipe.release) as archive:
            verify_signature(
                archive.descriptor_bytes,
                archive.signature,
                namespace=NAMESPACE,
                allowed=allowed,
                revoked=[revoked],
                at=now,
            )
            archive.check()
            descriptor = archive.descriptor
        if recipe.settings is not None:
            load_config(recipe.settings)
    except AgentError as error:
        raise DeployError(error.found, expected=error.expected, fix=error.fix) from None
    if descriptor.expires is not None and now > descriptor.expires:
        raise DeployError(f"{descriptor} expired on {format_time(descriptor.expires)}", fix="make a new release")
    return descriptor


def check_tree(tree: Tree, descriptor: Descriptor) -> list[str]:
    """Return what is doubtful about a root file system. Raises `DeployError` if it can never run the agent."""
    pythons = [match[1] for name in tree.names("/usr/bin") if (match := re.fullmatch(r"python(3\.\d+)", name))]
    python = max(pythons, key=lambda version: int(version[2:]), default="none")
    if python == "none" or int(python[2:]) < 10:
        raise DeployError(
            f"the root file system has Python {python}", expected="3.10 or later", fix="install python3 in it"
        )
    for path, package in _NEEDED.items():
        if not tree.exists(path):
            raise DeployError(f"the root file system has no {path}", fix=f"install {package} in it")
    if descriptor.needs.python not in (None, python):
        raise DeployError(
            f"{descriptor} is for Python {descriptor.needs.python}", expected=f"{python}, as the root file system has"
        )
    doubts = []
    if not tree.exists(f"/usr/lib/python{python}/ensurepip"):
        doubts.append("python3-venv is not installed in it: the agent's default way to prepare a release needs it")
    if not tree.exists("/usr/sbin/sshd"):
        doubts.append("openssh-server is not installed in it: nobody can log in, and nothing can be pushed")
    return doubts


def cook(tree: Tree, recipe: Recipe, descriptor: Descriptor) -> None:
    """Put everything into `tree`. The same root file system and recipe give the same tree, to the byte."""
    keys = "".join(_read_key(path) for path in recipe.ssh_keys).encode()
    accounts = _add_accounts(tree, recipe.user)
    for item in (*_agent(), *_settings(recipe, accounts, keys), *_upload(recipe, accounts)):
        tree.put(item)
    for item in (*_login(recipe.user, keys, accounts), *_first_boot()):
        tree.put(item)
    _forget_identity(tree)
    target = tree.find("/etc/systemd/system/default.target", follow=False)
    if target.is_symlink() and target.readlink().name == "nv-oem-config.target":
        # L4T's own first boot would wait for somebody at a screen.
        tree.put(Item(path="/etc/systemd/system/default.target", link="/usr/lib/systemd/system/multi-user.target"))
    tree.settle()


def _add_accounts(tree: Tree, user: str) -> Accounts:
    if _USER.fullmatch(user) is None or user in ("root", *_OWN):
        raise DeployError(f"{user!r} is no name for a user", expected="small letters, digits, - and _; not root")
    before = {name: tree.read(f"/etc/{name}") for name in ("passwd", "group", "shadow", "gshadow")}
    passwd, group = before["passwd"], before["group"]
    if passwd is None or group is None:
        raise DeployError("there is no /etc/passwd", expected="a root file system")
    accounts = Accounts(passwd=passwd, group=group, shadow=before["shadow"], gshadow=before["gshadow"])
    # As edgeseg.sysusers has them: the files to be owned by them are here before systemd has seen it.
    for name in ("render", *_OWN):
        accounts = accounts.with_group(name)
    service, agent = _OWN
    accounts = accounts.with_user(service, group=service, home="/var/lib/edgeseg-service", about="edgeseg service")
    accounts = accounts.with_user(agent, group=agent, home=_ROOT, about="edgeseg agent", shell="/bin/sh")
    accounts = accounts.with_member(agent, service)
    accounts = accounts.with_group(user, system=False)
    accounts = accounts.with_user(user, group=user, home=f"/home/{user}", shell="/bin/bash", system=False)
    for name in ("video", "systemd-journal"):  # to look through the camera, and at the logs
        if accounts.has_group(name):
            accounts = accounts.with_member(user, name)
    for name, text in before.items():
        after = getattr(accounts, name)
        if after != text:
            tree.rewrite(f"/etc/{name}", after)
    return accounts


def _agent() -> Iterator[Item]:
    """Yield what the agent itself installs."""
    with tempfile.TemporaryDirectory(prefix="edgeseg-agent-") as folder:
        program, root = Path(folder) / "agent", Path(folder) / "root"
        write_agent(program)
        call([sys.executable, "-I", str(program), "install", "--root", str(root)], "the agent cannot be installed")
        for path in sorted(root.rglob("*")):
            name = f"/{path.relative_to(root).as_posix()}"
            if path.is_symlink():
                yield Item(path=name, link=str(path.readlink()))
            elif path.is_file():
                yield Item(path=name, data=path.read_bytes(), mode=stat.S_IMODE(path.stat().st_mode))


def _settings(recipe: Recipe, accounts: Accounts, keys: bytes) -> Iterator[Item]:
    settings = recipe.settings.read_bytes() if recipe.settings is not None else b"{}\n"
    yield Item(path="/etc/edgeseg/agent.json", data=settings, mode=0o640, gid=accounts.gid("edgeseg"))
    yield Item(path="/etc/edgeseg/authorized_keys", data=keys)
    for name in ("allowed_signers", "revoked_keys"):
        if (recipe.trust / name).is_file():
            yield Item(path=f"/etc/edgeseg/{name}", data=(recipe.trust / name).read_bytes())


def _upload(recipe: Recipe, accounts: Accounts) -> Iterator[Item]:
    uid, gid = accounts.ids("edgeseg-agent")[0], accounts.gid("edgeseg")
    sha256 = sha256_file(recipe.release)
    upload = f"{_ROOT}/incoming/{sha256}.release"
    yield Item(path=_ROOT, mode=0o750, uid=uid, gid=gid)
    yield Item(path=f"{_ROOT}/incoming", mode=0o750, uid=uid, gid=gid)
    yield Item(path=upload, source=recipe.release, mode=0o640, uid=uid, gid=gid)
    yield Item(path=f"{_ROOT}/request", data=sha256.encode(), mode=0o640, uid=uid, gid=gid)


def _login(user: str, keys: bytes, accounts: Accounts) -> Iterator[Item]:
    uid, gid = accounts.ids(user)
    home = accounts.home(user)
    yield Item(path=home, mode=0o750, uid=uid, gid=gid)
    yield Item(path=f"{home}/.ssh", mode=0o700, uid=uid, gid=gid)
    yield Item(path=f"{home}/.ssh/authorized_keys", data=keys, mode=0o600, uid=uid, gid=gid)


def _first_boot() -> Iterator[Item]:
    own, unit = resources.files("edgeseg.deploy.image"), "edgeseg-first-boot.service"
    yield Item(path="/opt/edgeseg/first-boot", data=(own / "first_boot.py").read_bytes(), mode=0o755)
    yield Item(path=f"{_UNITS}/{unit}", data=(own / unit).read_bytes())
    yield Item(path=f"{_UNITS}/multi-user.target.wants/{unit}", link=f"{_UNITS}/{unit}")


def _forget_identity(tree: Tree) -> None:
    """Remove what must differ from device to device; the first boot makes it anew."""
    keys = [f"/etc/ssh/{name}" for name in tree.names("/etc/ssh") if name.startswith("ssh_host_")]
    tree.remove([*keys, "/var/lib/systemd/random-seed", "/var/lib/dbus/machine-id", "/etc/.updated", "/var/.updated"])
    tree.put(Item(path="/etc/machine-id", data=b"", mode=0o444))


def _read_key(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip() + "\n"
    except (OSError, UnicodeDecodeError) as error:
        raise DeployError(f"cannot read {path}: {error}", fix="give the public key, KEY.pub") from None
    if not all(_PUBLIC_KEY.fullmatch(line) for line in text.splitlines()):
        raise DeployError(f"{path} is no SSH public key", expected="the file that ends in .pub")
    return text
