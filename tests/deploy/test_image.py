"""A root file system becomes a device, to the byte the same each time, and its first boot does its job once."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.deploy.conftest import Bench, Makers

from edgeseg.deploy import keys
from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.image import first_boot
from edgeseg.deploy.image.accounts import Accounts
from edgeseg.deploy.image.tree import Item, Tree
from edgeseg.runtime.cli import main

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files get their owners: needs root")

PASSWD = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nvideo:x:44:\nsystemd-journal:x:999:\n"


def a_rootfs(folder: Path, python: str = "3.10") -> Path:
    """What `image build` looks at, of an Ubuntu."""
    files = {
        "etc/passwd": PASSWD,
        "etc/group": GROUP,
        "etc/shadow": "root:*:1::::::\n",
        "etc/gshadow": "root:*::\nvideo:!::\n",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/ssh/ssh_host_ed25519_key": "everybody's\n",
        f"usr/bin/python{python}": "",
        "usr/bin/ssh-keygen": "",
        "usr/bin/systemctl": "",
        "usr/sbin/sshd": "",
        f"usr/lib/python{python}/ensurepip/__init__.py": "",
        "home/a file.txt": "kept\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        os.utime(folder / name, (1_700_000_000, 1_700_000_000))
    (folder / "etc/shadow").chmod(0o640)
    (folder / "etc/systemd/system").mkdir(parents=True)
    (folder / "etc/systemd/system/default.target").symlink_to("/lib/systemd/system/nv-oem-config.target")
    (folder / "bin").symlink_to("usr/bin")
    for parent, _, _ in os.walk(folder):
        os.utime(parent, (1_700_000_000, 1_700_000_000))
    return folder


class Desk:
    """A folder with a root file system, a release, its trust and a key to log in with."""

    def __init__(self, folder: Path, makers: Makers) -> None:
        self.folder, self.makers = folder, makers
        self.rootfs = a_rootfs(folder / "rootfs")
        self.release = makers.release(1)
        (folder / "trust").mkdir()
        (folder / "trust/allowed_signers").write_text(keys.trust_line(makers.key.with_suffix(".pub"), "test"))
        keys.make_key(folder / "login", "login")

    def build(self, out: str, source: Path | None = None, **options: str | Path) -> Result:
        given = {
            "release": self.release,
            "trust": self.folder / "trust",
            "user": "edge",
            "ssh-key": self.folder / "login.pub",
            **options,
        }
        words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
        place = str(self.folder / out)
        return CliRunner().invoke(main, ["image", "build", str(source or self.rootfs), "--out", place, *words])


@pytest.fixture
def desk(tmp_path: Path, makers: Makers) -> Desk:
    return Desk(tmp_path, makers)


def built(desk: Desk, out: str, source: Path | None = None, **options: str | Path) -> Path:
    result = desk.build(out, source, **options)
    assert result.exit_code == 0, result.output
    return desk.folder / out


def test_first_boot_of_an_image_tries_its_release(desk: Desk, bench: Bench) -> None:
    root = built(desk, "device")
    bench.set(root=root / "var/lib/edgeseg", allowed_signers=root / "etc/edgeseg/allowed_signers")
    done = bench.run("fulfil")
    assert "tiny version 1" in done.stdout and "on trial in slot a" in done.stdout, done
    assert not list((root / "var/lib/edgeseg/incoming").iterdir())
    bench.clock.now += 1
    assert bench.version() == 1


def test_agent_in_an_image_runs(desk: Desk) -> None:
    agent = built(desk, "device") / "opt/edgeseg/agent"
    done = subprocess.run(["python3", "-I", str(agent), "--help"], capture_output=True, text=True, check=True)
    assert "edgeseg-agent" in done.stdout


def test_files_belong_to_who_needs_them(desk: Desk) -> None:
    root = built(desk, "device")
    passwd = {line.split(":")[0]: line.split(":") for line in (root / "etc/passwd").read_text().splitlines()}
    group = {line.split(":")[0]: line.split(":") for line in (root / "etc/group").read_text().splitlines()}
    agent, edge, edgeseg = (int(passwd[name][2]) for name in ("edgeseg-agent", "edge", "edgeseg"))
    assert agent < 1000 <= edge and agent != edgeseg
    assert group["edgeseg"][3] == "edgeseg-agent" and group["video"][3] == "edge"
    expected = {
        "var/lib/edgeseg": (0o750, agent, int(group["edgeseg"][2])),
        "var/lib/edgeseg/request": (0o640, agent, int(group["edgeseg"][2])),
        "home/edge/.ssh": (0o700, edge, edge),
        "home/edge/.ssh/authorized_keys": (0o600, edge, edge),
        "etc/edgeseg/authorized_keys": (0o644, 0, 0),
        "etc/edgeseg/agent.json": (0o640, 0, int(group["edgeseg"][2])),
        "etc/shadow": (0o640, 0, 0),
        "opt/edgeseg/agent": (0o755, 0, 0),
    }
    for name, (mode, uid, gid) in expected.items():
        found = (root / name).stat()
        assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (mode, uid, gid), name
    key = (desk.folder / "login.pub").read_text()
    assert (root / "home/edge/.ssh/authorized_keys").read_text() == key
    shadow = dict(line.split(":")[:2] for line in (root / "etc/shadow").read_text().splitlines())
    assert shadow["edge"] == "*"  # no password, and yet no locked account: keys work


def test_units_are_there_and_enabled(desk: Desk) -> None:
    root = built(desk, "device")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    for name in ("edgeseg.service", "edgeseg-build.path", "edgeseg-restart.path", "edgeseg-first-boot.service"):
        assert root.joinpath(str((wants / name).readlink()).lstrip("/")).is_file(), name
    assert (root / "etc/systemd/system/timers.target.wants/edgeseg-probation.timer").is_symlink()
    assert (root / "etc/systemd/system/default.target").readlink().name == "multi-user.target"


def test_image_carries_no_identity(desk: Desk) -> None:
    root = built(desk, "device")
    assert (root / "etc/machine-id").read_bytes() == b""
    assert not list((root / "etc/ssh").glob("ssh_host_*"))
    assert (desk.rootfs / "etc/ssh/ssh_host_ed25519_key").exists()  # what it was made from is untouched


@pytest.mark.parametrize("ending", [".tar", ".img"])
def test_same_inputs_give_the_same_bytes(desk: Desk, ending: str) -> None:
    size: dict[str, Any] = {"size": "24M"} if ending == ".img" else {}
    first = built(desk, f"first{ending}", **size)
    packed = desk.folder / "packed.tar.xz"
    subprocess.run(["tar", "--xattrs", "-cJf", str(packed), "-C", str(desk.rootfs), "."], check=True)
    (desk.rootfs / "etc/passwd").read_bytes()  # a reader leaves a mark in the times of a file
    assert built(desk, f"second{ending}", source=packed, **size).read_bytes() == first.read_bytes()
    other = built(desk, f"other{ending}", user="edna", **size)
    assert other.read_bytes() != first.read_bytes()


def test_image_is_a_sound_file_system_of_the_size_asked_for(desk: Desk) -> None:
    image = built(desk, "device.img", size="64M")
    assert image.stat().st_size == 64 << 20
    checked = subprocess.run(["e2fsck", "-fn", str(image)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    said = subprocess.run(["debugfs", "-R", "cat /home/a\\ file.txt", str(image)], capture_output=True, check=True)
    listed = subprocess.run(["debugfs", "-R", "stat /opt/edgeseg/agent", str(image)], capture_output=True, check=True)
    assert said.stdout in (b"kept\n", b"") and b"Mode:  0755" in listed.stdout


def test_image_that_is_too_small_is_refused_and_none_is_left(desk: Desk) -> None:
    (desk.rootfs / "big").write_bytes(os.urandom(8 << 20))
    result = desk.build("device.img", size="4M")
    assert result.exit_code == 1 and "cannot make" in result.output and "Traceback" not in result.output
    assert not [path for path in desk.folder.iterdir() if path.suffix == ".img"]


def test_raw_image_is_changed_in_a_copy(desk: Desk) -> None:
    raw, size = desk.folder / "raw.img", 24 << 20
    raw.touch()
    os.truncate(raw, size + (2 << 20))
    table = struct.pack("<4xB3xII", 0x83, 2048, size // 512)  # one Linux partition that begins at 1 MiB
    raw.write_bytes(raw.read_bytes()[:446] + table + bytes(48) + b"\x55\xaa" + bytes(size + (2 << 20) - 512))
    where = ["-E", f"offset={1 << 20}"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *where, "-d", str(desk.rootfs), str(raw), "23M"], check=True)
    if subprocess.run(["mount", "-o", f"loop,offset={1 << 20}", str(raw), "/mnt"], check=False).returncode:
        pytest.skip("this machine mounts no loop device")
    subprocess.run(["umount", "/mnt"], check=True)
    before = raw.read_bytes()
    out = built(desk, "out.img", source=raw)
    assert raw.read_bytes() == before
    listing = subprocess.run(
        ["debugfs", "-R", "ls -p /opt/edgeseg", f"{out}?offset={1 << 20}"], capture_output=True, text=True, check=True
    ).stdout
    assert "/agent/" in listing and "/first-boot/" in listing


def test_links_of_the_root_file_system_lead_nowhere_else(desk: Desk) -> None:
    outside = desk.folder / "outside"
    outside.mkdir()
    (desk.rootfs / "opt").symlink_to(outside)  # absolute: on a device it would be /…/outside
    (desk.rootfs / "var").symlink_to("../../../../../../../../../../tmp")
    root = built(desk, "device")
    assert not list(outside.iterdir())
    inside = root.joinpath(str(outside).lstrip("/"))
    assert (inside / "edgeseg/agent").is_file() and (root / "tmp/lib/edgeseg/request").is_file()


def test_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(DeployError, match="loop of links"):
        Tree(tmp_path, epoch=0).put(Item(path="/a/file", data=b""))


def test_tar_keeps_owners_and_modes(desk: Desk) -> None:
    (desk.rootfs / "usr/bin/tool").write_text("#!/bin/sh\n")
    (desk.rootfs / "usr/bin/tool").chmod(0o4755)
    os.chown(desk.rootfs / "usr/bin/tool", 12, 34)
    (desk.rootfs / "usr/bin/tool").chmod(0o4755)
    with tarfile.open(built(desk, "device.tar")) as archive:
        tool = archive.getmember("./usr/bin/tool")
        assert (tool.mode, tool.uid, tool.gid) == (0o4755, 12, 34)
        assert archive.getnames() == sorted(archive.getnames(), key=lambda name: name.split("/"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda desk: (desk.folder / "trust/allowed_signers").write_text(""), "trusted"),
        (lambda desk: (desk.folder / "trust/allowed_signers").unlink(), "no trusted keys"),
        (lambda desk: shutil.copy(desk.folder / "login", desk.folder / "login.pub"), "no SSH public key"),
        (lambda desk: (desk.rootfs / "usr/bin/python3.10").rename(desk.rootfs / "usr/bin/python3.8"), "Python 3.8"),
        (lambda desk: (desk.rootfs / "usr/bin/ssh-keygen").unlink(), "openssh-client"),
        (lambda desk: (desk.rootfs / "etc/passwd").unlink(), "no /etc/passwd"),
        (lambda desk: (desk.folder / "out.tar").write_text(""), "is there already"),
    ],
)
def test_what_can_never_work_is_refused(desk: Desk, spoil: object, words: str) -> None:
    assert callable(spoil)
    spoil(desk)
    result = desk.build("out.tar")
    assert result.exit_code == 1 and words in " ".join(result.output.split()), result.output
    assert not (desk.folder / "out.tar").exists() or not (desk.folder / "out.tar").stat().st_size


def test_tampered_release_is_refused(desk: Desk) -> None:
    data = desk.release.read_bytes()
    desk.release = desk.folder / "tampered.release"
    at = data.index(b"edgeseg/bundle")
    desk.release.write_bytes(data[:at] + b"EDGESEG" + data[at + 7 :])
    result = desk.build("out.tar")
    assert result.exit_code == 1 and "not a readable release" in result.output


@pytest.mark.parametrize("user", ["root", "edgeseg", "edgeseg-agent", "Edge", "a:b", "x y", ""])
def test_user_must_be_a_plain_name_of_nobody_else(desk: Desk, user: str) -> None:
    assert desk.build("out.tar", user=user).exit_code == 1


def test_settings_are_checked_before_anything_is_written(desk: Desk) -> None:
    (desk.folder / "agent.json").write_text(json.dumps({"probation": 5}))
    result = desk.build("out.tar", settings=desk.folder / "agent.json")
    assert result.exit_code == 1 and "unknown setting" in result.output


def test_who_is_not_root_is_told_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = desk.build("out.tar")
    assert result.exit_code == 1 and "sudo" in result.output


def test_steps_for_a_jetson_name_their_source_and_that_they_were_never_run(desk: Desk) -> None:
    (desk.folder / "Linux_for_Tegra").mkdir()
    result = desk.build("Linux_for_Tegra/rootfs", **{"flash-steps": desk.folder / "steps.sh"})
    assert result.exit_code == 0, result.output
    steps = (desk.folder / "steps.sh").read_text()
    assert "never ran" in steps and "docs.nvidia.com/jetson" in steps and "apply_binaries.sh" in steps
    for device in ("nvme0n1p1", "mmcblk0p1", "eMMC"):
        assert device in steps
    assert subprocess.run(["sh", "-n"], input=steps, text=True, check=False).returncode == 0


NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), unique=True, max_size=8)


@settings(max_examples=30)
@given(NAMES, st.sets(st.integers(990, 1005)))
def test_accounts_get_numbers_of_their_own_and_are_made_once(names: list[str], taken: set[int]) -> None:
    passwd = PASSWD + "".join(f"u{number}x:x:{number}:{number}::/:/bin/sh\n" for number in sorted(taken))
    before = Accounts(passwd=passwd, group=GROUP, shadow="", gshadow=None)
    after = before
    for name in (f"n{name}" for name in names):
        after = after.with_group(name).with_user(name, group=name, home="/", about="").with_member(name, "video")
        assert after == after.with_group(name).with_user(name, group=name, home="/").with_member(name, "video")
    numbers = [line.split(":")[2] for line in after.passwd.splitlines()]
    assert len(set(numbers)) == len(numbers)
    assert after.passwd.startswith(before.passwd)
    assert [line.split(":")[0] for line in (after.shadow or "").splitlines()] == [f"n{name}" for name in names]


def a_device(folder: Path, serial: str = "1424422012345\0") -> Path:
    for name in ("etc/ssh", "etc/edgeseg", "proc/device-tree"):
        (folder / name).mkdir(parents=True)
    (folder / "proc/device-tree/serial-number").write_text(serial)
    (folder / "etc/hosts").write_text("127.0.0.1\tlocalhost\n127.0.1.1\tubuntu\n")
    return folder


def test_first_boot_gives_a_name_and_keys_once(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    assert first_boot.main(device) == 0
    assert (device / "etc/hostname").read_text() == "edgeseg-22012345\n"
    assert (device / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n127.0.1.1\tedgeseg-22012345\n"
    for name in ("etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ecdsa_key", "etc/edgeseg/device_key"):
        assert (device / name).stat().st_mode & 0o777 == 0o600
        assert (device / f"{name}.pub").read_text().split()[2].endswith("edgeseg-22012345")
    before = {path: path.read_bytes() for path in device.rglob("*") if path.is_file()}
    (device / "proc/device-tree/serial-number").write_text("another")
    assert first_boot.main(device) == 0
    before[device / "proc/device-tree/serial-number"] = b"another"
    assert {path: path.read_bytes() for path in device.rglob("*") if path.is_file()} == before


def test_first_boot_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = a_device(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no ssh-keygen: it ends in the middle
    with pytest.raises(OSError):
        first_boot.main(device)
    assert not (device / first_boot.DONE).exists()
    monkeypatch.undo()
    (device / "etc/ssh/ssh_host_ed25519_key").write_bytes(b"")  # what a power cut leaves of a file that was not synced
    (device / "etc/edgeseg/device_key.partial").write_bytes(b"half")
    assert first_boot.main(device) == 0
    key = str(device / "etc/ssh/ssh_host_ed25519_key")
    assert subprocess.run(["ssh-keygen", "-y", "-f", key], capture_output=True, check=False).returncode == 0
    assert not list(device.rglob("*.partial*"))


def test_whole_keys_are_kept_by_a_first_boot_that_goes_on(tmp_path: Path) -> None:
    device = a_device(tmp_path)
    first_boot.main(device)
    (device / first_boot.DONE).unlink()
    (device / "etc/ssh/ssh_host_ecdsa_key.pub").write_text("ecdsa-sha2-nistp256 AAAA torn\n")
    kept = (device / first_boot.DEVICE_KEY).read_bytes()
    torn = (device / "etc/ssh/ssh_host_ecdsa_key").read_bytes()
    first_boot.main(device)
    assert (device / first_boot.DEVICE_KEY).read_bytes() == kept
    assert (device / "etc/ssh/ssh_host_ecdsa_key").read_bytes() != torn


def test_device_without_a_serial_number_is_named_by_its_machine_id(tmp_path: Path) -> None:
    device = a_device(tmp_path, serial="0000000000000\0")
    (device / "etc/machine-id").write_text("fedcba98765432100123456789abcdef\n")
    assert first_boot.host_name(device) == "edgeseg-89abcdef"


UNIT = Path(first_boot.__file__).with_name("edgeseg-first-boot.service")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_first_boot_unit_is_read_without_a_word_and_is_hardened() -> None:
    for words in (("verify", "--man=no"), ("security", "--offline=true", "--threshold=30")):
        done = subprocess.run(["systemd-analyze", *words, str(UNIT)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done


def test_nothing_that_needs_the_first_boot_starts_before_it() -> None:
    before = next(line for line in UNIT.read_text().splitlines() if line.startswith("Before="))
    assert {"ssh.service", "edgeseg-build.service", "edgeseg.service"} <= set(before.removeprefix("Before=").split())
