"""Which disks may be erased, by what lsblk and the kernel say of them, and writing to one that may."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.image import commands, writing
from edgeseg.deploy.image.disks import parse_disk, read_disk, refuse_unsafe
from edgeseg.runtime.cli import main

GB = 10**9
NOTHING_MOUNTED = "22 1 0:21 / /proc rw,nosuid - proc proc rw\n"
NO_SWAP = "Filename\tType\tSize\tUsed\tPriority\n"


def part(name: str = "/dev/sdb1", number: str = "8:17", **facts: Any) -> dict[str, Any]:
    return {
        "name": name,
        "type": "part",
        "size": 15 * GB,
        "ro": False,
        "maj:min": number,
        "mountpoints": [None],
        **facts,
    }


def card(*children: dict[str, Any], **facts: Any) -> str:
    """lsblk's JSON of a 16 GB card in a reader."""
    disk = {
        "name": "/dev/sdb", "type": "disk", "size": 16 * GB, "ro": False, "model": "SD Reader ", "serial": "C0FFEE",
        "fstype": None, "mountpoints": [None], "maj:min": "8:16", **facts,
    }  # fmt: skip
    return json.dumps({"blockdevices": [disk | ({"children": list(children)} if children else {})]})


def refusal(text: str, mountinfo: str = NOTHING_MOUNTED, swaps: str = NO_SWAP, size: int = 8 * GB) -> str:
    with pytest.raises(DeployError) as caught:
        refuse_unsafe(parse_disk(text), mountinfo=mountinfo, swaps=swaps, image_bytes=size)
    return str(caught.value)


@pytest.mark.parametrize("text", [card(), card(part(fstype="vfat"), part("/dev/sdb2", "8:18", fstype="ext4"))])
def test_card_that_nothing_uses_may_be_erased(text: str) -> None:
    disk = parse_disk(text)
    refuse_unsafe(disk, mountinfo=NOTHING_MOUNTED, swaps=NO_SWAP, image_bytes=16 * GB)
    assert str(disk) == "/dev/sdb (SD Reader, C0FFEE, 16.0 GB)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (card(part(mountpoints=["/media/me/CARD"])), "/dev/sdb1 is mounted at /media/me/CARD"),
        (card(part(mountpoints=[None, "/"])), "a disk of this system: /dev/sdb1 is its /"),
        (card(part(mountpoints=["/boot/efi"])), "a disk of this system"),
        (card(mountpoints=["/srv"]), "/dev/sdb is mounted at /srv"),
        (card(part(mountpoints=["[SWAP]"], fstype="swap")), "swap space in use"),
        (card(part(fstype="LVM2_member")), "belongs to LVM"),
        (card(part(fstype="linux_raid_member")), "belongs to RAID"),
        (card(fstype="linux_raid_member"), "belongs to RAID"),
        (card(part(fstype="zfs_member")), "belongs to ZFS"),
        (card(part(children=[part("/dev/md0", "9:0", type="raid1")])), "belongs to RAID"),
        (card(part(children=[part("/dev/mapper/x", "253:0", type="crypt")])), "an open encrypted volume"),
        (card(part(children=[part("/dev/mapper/r", "253:1", type="lvm", mountpoints=["/"])])), "a disk of this system"),
        (card(ro=True), "is read-only"),
        (card(size=4 * GB), "too small"),
        (card(type="part"), "is of type part; expected a whole disk"),
        (card(type="rom"), "is of type rom"),
        (card(type="lvm"), "is of type lvm"),
    ],
)
def test_disk_that_is_in_use_or_unfit_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)


def test_kernel_is_believed_where_lsblk_missed_a_mount() -> None:
    mount = "30 1 8:17 / /mnt/my\\040card rw - vfat /dev/sdb1 rw\n"
    assert "/mnt/my card" in refusal(card(part()), mountinfo=NOTHING_MOUNTED + mount)
    btrfs = "31 1 0:44 /home /home rw shared:1 - btrfs /dev/sdb1 rw\n"  # its number is no disk's
    assert "a disk of this system" in refusal(card(part()), mountinfo=btrfs)
    swaps = NO_SWAP + "/dev/sdb1                partition\t1000\t0\t-2\n"
    assert "swap space" in refusal(card(part()), swaps=swaps)


@pytest.mark.parametrize("kind", ["file", "nothing", "character device", "folder"])
def test_what_is_no_disk_is_refused(tmp_path: Path, kind: str) -> None:
    place = {"nothing": tmp_path / "none", "character device": Path("/dev/null"), "folder": tmp_path}
    path = place.get(kind, tmp_path / "file")
    (tmp_path / "file").touch()
    with pytest.raises(DeployError, match="such as /dev/sdb"):
        read_disk(path)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB, full of something else."""
    (tmp_path / "backing").write_bytes(b"\xaa" * (8 << 20))
    made = subprocess.run(
        ["losetup", "--show", "-f", tmp_path / "backing"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


def write(*words: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["image", "write", *map(str, words)])
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "device.img"
    path.write_bytes(os.urandom(5 << 20))
    return path


def test_image_is_written_and_read_back(loop: Path, image: Path, tmp_path: Path) -> None:
    status, said = write(image, loop, "--yes-erase", loop.name, "--json", tmp_path / "said.json")
    assert status == 0 and "read it back" in said, said
    written = (tmp_path / "backing").read_bytes()
    assert written[: 5 << 20] == image.read_bytes() and set(written[5 << 20 :]) == {0xAA}
    assert json.loads((tmp_path / "said.json").read_text())["bytes"] == 5 << 20


@pytest.mark.parametrize("answer", ["sdz", "loop", "", "yes"])
def test_wrong_name_erases_nothing(loop: Path, image: Path, tmp_path: Path, answer: str) -> None:
    status, said = write(image, loop, "--yes-erase", answer)
    assert status == 1 and "nothing was written" in said
    assert set((tmp_path / "backing").read_bytes()) == {0xAA}


def test_nobody_there_to_confirm_erases_nothing(loop: Path, image: Path, tmp_path: Path) -> None:
    status, said = write(image, loop)
    assert status == 1 and f"--yes-erase {loop.name}" in said
    assert set((tmp_path / "backing").read_bytes()) == {0xAA}


def test_name_must_be_typed_where_somebody_is(loop: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "_at_terminal", lambda: True)
    for typed, expected in ((loop.name, 0), ("y", 1), ("", 1)):
        result = CliRunner().invoke(main, ["image", "write", str(image), str(loop)], input=f"{typed}\n")
        assert result.exit_code == expected, result.output
        assert f"{loop} (0.0 GB) will be erased" in " ".join(result.output.split())


def test_mounted_disk_is_refused(loop: Path, image: Path, tmp_path: Path) -> None:
    subprocess.run(["mke2fs", "-q", "-F", str(loop)], check=True)
    (tmp_path / "mount").mkdir()
    subprocess.run(["mount", str(loop), str(tmp_path / "mount")], check=True)
    try:
        status, said = write(image, loop, "--yes-erase", loop.name)
        assert status == 1 and "is mounted at" in said
        with pytest.raises(DeployError, match="cannot be claimed"):  # and the kernel refuses it once more
            writing.write_image(image, read_disk(loop), lambda _: None)
    finally:
        subprocess.run(["umount", str(tmp_path / "mount")], check=True)


def test_image_larger_than_the_disk_is_refused(loop: Path, image: Path) -> None:
    os.truncate(image, 9 << 20)
    status, said = write(image, loop, "--yes-erase", loop.name)
    assert status == 1 and "too small" in said


def test_disk_that_was_exchanged_is_left_alone(loop: Path, image: Path, tmp_path: Path) -> None:
    looked_at = parse_disk(card(name=str(loop), type="loop"))  # it had another number when it was looked at
    with pytest.raises(DeployError, match="another disk now"):
        writing.write_image(image, looked_at, lambda _: None)
    assert set((tmp_path / "backing").read_bytes()) == {0xAA}


def test_disk_that_keeps_something_else_is_found_out(loop: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(
        "edgeseg.deploy.image.writing.os.write", lambda target, data: real(target, bytes(len(data)))
    )  # a fake card
    with pytest.raises(DeployError, match="does not hold what was written"):
        writing.write_image(image, read_disk(loop), lambda _: None)


def test_progress_covers_writing_and_reading(loop: Path, image: Path) -> None:
    told: list[int] = []
    writing.write_image(image, read_disk(loop), told.append)
    assert sum(told) == 2 * (5 << 20) and len(told) > 2
