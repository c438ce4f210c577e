"""`edgeseg image build` and `edgeseg image write`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from edgeseg.deploy.agent.descriptor import Descriptor
from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.image import rootfs
from edgeseg.deploy.image.disks import Disk, read_disk, refuse_unsafe
from edgeseg.deploy.image.flash import flash_steps
from edgeseg.deploy.image.recipe import Recipe, check_release, check_tree, cook
from edgeseg.deploy.image.tree import Tree
from edgeseg.deploy.image.writing import write_image
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.files import sha256_file, write_bytes

_FILE = click.Path(dir_okay=False, path_type=Path)
_UNITS = {"": 1, "M": 1 << 20, "G": 1 << 30}


def _size(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].upper() in _UNITS else (text, "")
    if not number.isdecimal() or int(number) == 0:
        raise click.BadParameter(f"{text!r} is no size; expected such as 8G")
    return int(number) * _UNITS[unit]


@click.group(epilog="Example: edgeseg image write device.img /dev/sdb")
def image() -> None:
    """Make a root file system a device, and write it to a card."""


@image.command(
    epilog="Example: sudo edgeseg image build rootfs.tbz2 --out Linux_for_Tegra/rootfs --release 7.release "
    "--trust trust --user edge --ssh-key edge.pub"
)
@click.argument("source", metavar="ROOTFS", type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A folder, FILE.tar or FILE.img (ext4).")
@click.option("--release", type=_FILE, required=True, help="What the device runs first, of `edgeseg deploy release`.")
@click.option(
    "--trust", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder with allowed_signers."
)
@click.option("--user", required=True, metavar="NAME", help="Who may log in over SSH.")
@click.option("--ssh-key", "ssh_keys", type=_FILE, required=True, multiple=True, help="NAME's public key; repeatable.")
@click.option("--settings", type=_FILE, help="The agent's settings (agent.json). Default: its defaults.")
@click.option(
    "--size", callback=_size, metavar="SIZE", help="Of FILE.img, such as 8G. Default: what it holds and half."
)
@click.option("--flash-steps", "steps", type=_FILE, metavar="FILE", help="Write the commands for a Jetson to FILE.")
@json_option
def build(
    *,
    source: Path,
    out: Path,
    release: Path,
    trust: Path,
    user: str,
    ssh_keys: tuple[Path, ...],
    settings: Path | None,
    size: int | None,
    steps: Path | None,
    json_path: Path | None,
) -> None:
    """Put users, keys, the agent, its units and a release into ROOTFS, a folder, a tar archive or a raw image.

    Nothing of ROOTFS is run, and ROOTFS itself is not changed. The same inputs give the same bytes, but for a raw
    image, which is mounted. Needs root, to give files their owners.
    """
    if os.geteuid() != 0:
        raise DeployError("image build is not run as root", fix="sudo edgeseg image build ...: files get their owners")
    out = out.absolute()
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise DeployError(f"{out} is there already", fix="choose another --out, or remove it")
    if not out.parent.is_dir():
        raise DeployError(f"{out.parent}: no such folder")
    recipe = Recipe(release=release, trust=trust, user=user, ssh_keys=ssh_keys, settings=settings)
    descriptor = check_release(recipe)
    doubts = _build(source, out, recipe, descriptor, size)
    for doubt in doubts:
        console.print(f"warning: {doubt}")
    console.print(f"wrote {out}: {descriptor} is tried at the first boot")
    if rootfs.kind_of(out) != "image":
        if steps is None:
            console.print(flash_steps(out), end="", soft_wrap=True)
        else:
            write_bytes(steps, flash_steps(out).encode())
            console.print(f"wrote {steps}")
    digest = {"sha256": sha256_file(out)} if out.is_file() else {}
    write_document(json_path, "image", out=out.name, release=descriptor.digest, user=user, doubts=doubts, **digest)


def _build(source: Path, out: Path, recipe: Recipe, descriptor: Descriptor, size: int | None) -> list[str]:
    kind = rootfs.kind_of(out)
    if rootfs.kind_of(source) == "image":
        if kind != "image":
            raise DeployError(f"{source} is a raw image", expected="--out FILE.img")
        rootfs.copy_image(source, out)
        with rootfs.mounted(out) as root:
            return _change(root, recipe, descriptor)
    with rootfs.unpacked(source, out.parent) as root:
        doubts = _change(root, recipe, descriptor)
        if kind == "tar":
            rootfs.pack_tar(root, out)
        elif kind == "image":
            rootfs.pack_image(root, out, size=size, epoch=descriptor.created, seed=descriptor.digest)
        else:
            rootfs.move_folder(root, out)
    return doubts


def _change(root: Path, recipe: Recipe, descriptor: Descriptor) -> list[str]:
    tree = Tree(root, epoch=descriptor.created)
    doubts = check_tree(tree, descriptor)
    cook(tree, recipe, descriptor)
    return doubts


@image.command(epilog="Example: sudo edgeseg image write device.img /dev/sdb")
@click.argument("image_path", metavar="IMAGE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("disk_path", metavar="DISK", type=click.Path(path_type=Path))
@click.option("--yes-erase", metavar="SERIAL-OR-NAME", help="The disk's serial number or name: ask nothing.")
@json_option
def write(image_path: Path, disk_path: Path, yes_erase: str | None, json_path: Path | None) -> None:
    """Write the raw IMAGE to DISK, which is erased, and read it back.

    Refused: anything mounted, of this system, swap, LVM, RAID, read-only or too small, and whatever is no whole disk.
    """
    size = image_path.stat().st_size
    disk = _safe_disk(disk_path, size)
    _confirm(disk, yes_erase)
    disk = _safe_disk(disk_path, size)  # the answer may have taken a while
    with progress(f"writing and reading back {disk.name}", 2 * size) as advance:
        sha256 = write_image(image_path, disk, advance)
    console.print(f"wrote {image_path} to {disk}, and read it back")
    write_document(json_path, "image-write", disk=disk.path, bytes=size, sha256=sha256)


def _safe_disk(path: Path, size: int) -> Disk:
    disk = read_disk(path)
    mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    refuse_unsafe(disk, mountinfo=mountinfo, swaps=Path("/proc/swaps").read_text(encoding="utf-8"), image_bytes=size)
    return disk


def _confirm(disk: Disk, answer: str | None) -> None:
    console.print(f"{disk} will be erased")
    if answer is None:
        if not _at_terminal():
            raise DeployError(
                "nobody is there to confirm", fix=f"--yes-erase {disk.serial or disk.name}, if it is the one"
            )
        answer = click.prompt(f"Type {disk.name} to erase it", default="", show_default=False)
    if answer not in filter(None, (disk.name, disk.serial, disk.path)):
        raise DeployError(f"{answer!r} is not this disk; nothing was written", expected=f"{disk.serial or disk.name}")


def _at_terminal() -> bool:
    return sys.stdin.isatty()
