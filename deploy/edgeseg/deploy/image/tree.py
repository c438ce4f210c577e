"""Files in a root file system that lies in a folder.

Its links are its own: an absolute one starts at that folder, never at this machine's root.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeseg.deploy.errors import DeployError

_MAX_LINKS = 40


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something to be put at `path`, seen from the root file system's own root.

    Exactly one of `data` (a file's bytes), `source` (a file to copy) and `link` (a symbolic link's target) is given,
    or none of them: a folder.
    """

    path: str
    data: bytes | None = None
    source: Path | None = None
    link: str | None = None
    mode: int = 0o644
    uid: int = 0
    gid: int = 0


class Tree:
    """The root file system below `root`. What is put into it or taken out of it gets the time `epoch`."""

    def __init__(self, root: Path, *, epoch: int) -> None:
        self._root, self._epoch = root, epoch
        self._touched: set[Path] = set()

    def find(self, path: str, *, follow: bool = True) -> Path:
        """Return where `path` lies on this machine. Its last link is followed only if `follow`.

        Raises `DeployError` for a loop of links.
        """
        ahead, here, hops = list(reversed(PurePosixPath(path).parts)), list[str](), 0
        while ahead:
            part = ahead.pop()
            if part in ("/", ".", ".."):
                here = [] if part == "/" else here[: -1 if part == ".." else None]
                continue
            found = self._root.joinpath(*here, part)
            if found.is_symlink() and (ahead or follow):
                hops += 1
                if hops > _MAX_LINKS:
                    raise DeployError(f"{path} in the root file system is a loop of links")
                ahead.extend(reversed(PurePosixPath(found.readlink()).parts))
                continue
            here.append(part)
        return self._root.joinpath(*here)

    def read(self, path: str) -> str | None:
        """Return the text of the file at `path`, or None if there is none."""
        found = self.find(path)
        return found.read_text(encoding="utf-8", errors="surrogateescape") if found.is_file() else None

    def exists(self, path: str) -> bool:
        """Tell whether there is something at `path`."""
        return self.find(path).exists()

    def names(self, path: str) -> list[str]:
        """Return what is in the folder `path`, sorted; nothing if there is none."""
        found = self.find(path)
        return sorted(child.name for child in found.iterdir()) if found.is_dir() else []

    def put(self, item: Item) -> None:
        """Put `item` in place of what was there; missing folders above it are root's."""
        folder = item.data is None and item.source is None and item.link is None
        self._make_folders(str(PurePosixPath(item.path).parent))
        target = self.find(item.path, follow=folder)
        if folder:
            target.mkdir(exist_ok=True)
        else:
            if target.is_symlink() or target.exists():
                target.unlink()
            if item.link is not None:
                target.symlink_to(item.link)
            elif item.source is not None:
                shutil.copyfile(item.source, target)
            else:
                target.write_bytes(item.data or b"")
        os.chown(target, item.uid, item.gid, follow_symlinks=False)
        if item.link is None:
            target.chmod(item.mode)
        self._touched |= {target, target.parent}

    def rewrite(self, path: str, text: str) -> None:
        """Replace the text of a file that is there, which keeps its owner and mode."""
        target = self.find(path)
        before = target.stat()
        real = "/" + target.relative_to(self._root).as_posix()
        data = text.encode("utf-8", errors="surrogateescape")
        self.put(
            Item(path=real, data=data, mode=stat.S_IMODE(before.st_mode), uid=before.st_uid, gid=before.st_gid)
        )  # fmt: skip

    def remove(self, paths: Iterable[str]) -> None:
        """Remove files or links, where they are there."""
        for path in paths:
            target = self.find(path, follow=False)
            if target.is_symlink() or target.is_file():
                target.unlink()
                self._touched.add(target.parent)

    def settle(self) -> None:
        """Give everything that was touched its time."""
        for path in self._touched:
            if path.is_symlink() or path.exists():
                os.utime(path, (self._epoch, self._epoch), follow_symlinks=False)

    def _make_folders(self, path: str) -> None:
        folder = self.find(path)
        for missing in [place for place in reversed([folder, *folder.parents]) if not place.exists()]:
            missing.mkdir()
            missing.chmod(0o755)
            os.chown(missing, 0, 0)
            self._touched |= {missing, missing.parent}
