"""Two slots and three links.

    slots/a  slots/b    one release each, as it was signed, and `prepared/`, what the device made of it
    current             the slot that the service runs
    good                the slot of the last permanent version
    rollback            made before a trial and pointing at `good`: going back is one rename, even on a full disk

As long as `current` and `good` differ, a version is on trial. The free slot is the one that neither points to: what
a step overwrites follows from the links, never from a record, so a repeated step cannot hit the way back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from .descriptor import DESCRIPTOR, Descriptor, parse_descriptor
from .errors import AgentError
from .files import remove_file, remove_tree, sha256_file, sync_folder, sync_tree, write_whole

NAMES = ("a", "b")
PREPARED = "prepared"
SEAL = "seal.json"


class Slots:
    """The slots below the agent's root."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "slots"

    @property
    def current(self) -> str | None:
        """The slot that the service runs, or is about to run."""
        return self._read("current")

    @property
    def good(self) -> str | None:
        """The slot of the last permanent version."""
        return self._read("good")

    def free(self) -> str | None:
        """Return the slot that no link points to, or None while a version is on trial."""
        return next((name for name in NAMES if name not in (self.current, self.good)), None)

    def path(self, slot: str) -> Path:
        """Return the folder of `slot`."""
        return self._folder / slot

    def clear(self, slot: str) -> Path:
        """Empty `slot` and return the folder beside it to unpack to. Raises `AgentError` if a link needs the slot."""
        if slot in (self.current, self.good):
            raise AgentError(f"slot {slot} is in use")
        partial = self._folder / f"{slot}.partial"
        self._folder.mkdir(parents=True, exist_ok=True)
        sync_folder(self._root)
        for folder in (self.path(slot), partial):
            remove_tree(folder)
        return partial

    def fill(self, slot: str, partial: Path) -> Path:
        """Give the synced folder `partial` its place as `slot`, and return that."""
        partial.replace(self.path(slot))
        sync_folder(self._folder)
        return self.path(slot)

    def seal(self, slot: str, digest: str) -> None:
        """Write down that the release `digest` was accepted and prepared in `slot`, with what preparing made."""
        prepared = self.path(slot) / PREPARED
        if prepared.exists():
            sync_tree(prepared)
        seal = {"digest": digest, "prepared": _hash_tree(prepared)}
        write_whole(self.path(slot) / SEAL, json.dumps(seal).encode())

    def descriptor(self, slot: str) -> Descriptor | None:
        """Return the descriptor of the release in `slot`, or None if there is none that can be read."""
        try:
            return parse_descriptor((self.path(slot) / DESCRIPTOR).read_bytes())
        except (OSError, AgentError):
            return None

    def fault(self, slot: str) -> str | None:
        """Read all of `slot` and return what keeps it from being a whole, accepted release, or None."""
        folder, descriptor = self.path(slot), self.descriptor(slot)
        if descriptor is None:
            return f"slot {slot} holds no release"
        try:
            seal = json.loads((folder / SEAL).read_bytes())
            expected = {name: entry.sha256 for name, entry in descriptor.files.items()}
            expected.update({f"{PREPARED}/{name}": value for name, value in seal["prepared"].items()})
            if seal["digest"] != descriptor.digest:
                return f"{DESCRIPTOR} of slot {slot} was altered"
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return f"slot {slot} was not prepared to the end"
        for name, value in expected.items():
            if _hash(folder / name) != value:
                return f"{name} in slot {slot} is missing or altered"
        return None

    def switch(self, link: str, slot: str, *, via: str | None = None) -> None:
        """Point `link` at `slot`, at once and for good."""
        staged = self.stage(slot, via or f"{link}.next")
        staged.replace(self._root / link)
        sync_folder(self._root)

    def stage(self, slot: str, name: str) -> Path:
        """Make the link `name` to `slot`, for a later `switch`; nothing happens if it is there already."""
        link = self._root / name
        if self._read(name) != slot:
            if link.is_symlink():
                link.unlink()
            link.symlink_to(f"slots/{slot}")
            sync_folder(self._root)
        return link

    def drop(self, link: str) -> None:
        """Remove `link`."""
        remove_file(self._root / link)

    def remove(self, slot: str) -> None:
        """Remove what is in `slot`, unless a link needs it."""
        if slot not in (self.current, self.good):
            remove_tree(self.path(slot))

    def _read(self, link: str) -> str | None:
        try:
            name = (self._root / link).readlink().name
        except OSError:
            return None
        return name if name in NAMES else None


def _hash_tree(folder: Path) -> dict[str, str]:
    found = {}
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in names + links:
            path = Path(parent) / name
            found[path.relative_to(folder).as_posix()] = _hash(path)
    return {name: value for name, value in found.items() if value is not None}


def _hash(path: Path) -> str | None:
    """Return a regular file's SHA-256, a link's target, None for anything else."""
    try:
        if path.is_symlink():
            return f"-> {path.readlink()}"
        return sha256_file(path) if path.is_file() else None
    except OSError:
        return None
