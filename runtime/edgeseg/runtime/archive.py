"""A bundle as a single file: an uncompressed zip, so that ordinary tools can look inside."""

from __future__ import annotations

import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from edgeseg.runtime.errors import BundleError
from edgeseg.runtime.manifest import COPY_FIX, MANIFEST, MAX_MANIFEST_BYTES, OPEN_FIX, SIGNATURE, parse_manifest

_MAX_SIGNATURE_BYTES = 1 << 16

# NotImplementedError (an unknown method) and errors about encryption are RuntimeErrors; OSError is a full disk or a
# name that is both file and folder.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OSError)


def write_archive(folder: Path, names: Iterable[str], archive: Path) -> None:
    """Write the files `names` of `folder` to `archive`. The same files give the same bytes.

    Nothing is compressed: weights do not shrink, and another zlib would give other bytes.
    """
    with zipfile.ZipFile(archive, "w") as target:
        for name in sorted(names):
            info = zipfile.ZipInfo(name)
            info.external_attr = (stat.S_IFREG | 0o644) << 16
            with (folder / name).open("rb") as source, target.open(info, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)


def unpack_archive(path: Path, folder: Path) -> None:
    """Unpack what the manifest in the archive at `path` lists, and no byte more, to the empty `folder`.

    Raises `BundleError` if it is no archive, holds links or unlisted files, or more bytes than its manifest says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _unpack(archive, folder)
    except _BROKEN as error:
        raise BundleError(f"{path.name} is not a readable archive ({error})", fix=OPEN_FIX) from None


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in members:
            raise BundleError(f"{info.filename} is twice in the archive", fix=COPY_FIX)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BundleError(f"{info.filename} is not a regular file", fix="pack the files themselves, not links")
        if not info.is_dir():
            members[info.filename] = info
    if MANIFEST not in members:
        raise BundleError(f"the archive has no {MANIFEST}", fix=OPEN_FIX)
    _extract(archive, members[MANIFEST], folder, MAX_MANIFEST_BYTES)
    manifest = parse_manifest((folder / MANIFEST).read_bytes())
    manifest.check_names(members)
    if SIGNATURE in members:
        _extract(archive, members[SIGNATURE], folder, _MAX_SIGNATURE_BYTES)
    for name, entry in manifest.files.items():
        _extract(archive, members[name], folder, entry.size)


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, max_bytes: int) -> None:
    # By now the name is one of ours or one that the manifest could list; the size it declares is not believed.
    target = folder / info.filename
    target.parent.mkdir(parents=True, exist_ok=True)
    left = max_bytes
    with archive.open(info) as source, target.open("xb") as sink:
        while block := source.read(1 << 20):
            left -= len(block)
            if left < 0:
                raise BundleError(f"{info.filename} is larger than {max_bytes} bytes", fix=COPY_FIX)
            sink.write(block)
