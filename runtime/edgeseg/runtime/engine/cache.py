"""Plans and what belongs to them, sealed with a key that never leaves the device.

A plan is executable code, and TensorRT's own checks of it are no protection: what was not sealed here is never
handed to it. A sealed file is

    b"edgeseg\\x01", facts' length (4 bytes), data's length (8 bytes), facts as JSON, data, HMAC-SHA256 of all before
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from edgeseg.runtime.errors import BackendError
from edgeseg.runtime.files import write_bytes

_log = logging.getLogger(__name__)

_HEAD = struct.Struct("<8sIQ")
_MAGIC = b"edgeseg\x01"
_TAG_BYTES = 32
_KEY_BYTES = 32
_MAX_BYTES = 1 << 32


class UnusableError(Exception):
    """A sealed file that must not be used; the text says why."""


class AbsentError(UnusableError):
    """A sealed file that was not made yet."""


def cache_folder() -> Path:
    """Return where engines are kept: `$XDG_CACHE_HOME/edgeseg/engines`, else below `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeseg" / "engines"


class SealedFolder:
    """Files by name, each with facts that must hold when it is read."""

    def __init__(self, folder: Path | None = None) -> None:
        """Create `folder`, mode 0700, if it is not there. Raises `BackendError` if it cannot be written."""
        self.folder = folder or cache_folder()
        with _told(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self, name: str, facts: Mapping[str, str]) -> bytes:
        """Return the data of file `name`. Raises `UnusableError` unless it is whole, sealed here and of these facts."""
        path = self.folder / name
        try:
            with path.open("rb") as stream:
                if os.fstat(stream.fileno()).st_size > _MAX_BYTES:
                    raise UnusableError(f"{name} is larger than {_MAX_BYTES} bytes")
                sealed = stream.read()
        except FileNotFoundError:
            raise AbsentError(f"there is no {name} yet") from None
        except OSError as error:
            raise UnusableError(f"{name} cannot be read: {error.strerror}") from None
        found, data = _unseal(sealed, self._key(), name)
        for fact, expected in facts.items():
            if found.get(fact) != expected:
                raise UnusableError(f"{name} was made for {fact} {found.get(fact)}, this is {expected}")
        return data

    def save(self, name: str, facts: Mapping[str, str], data: bytes) -> None:
        """Seal `data` and put it in place, whole or not at all. Raises `BackendError` if the disk has no room."""
        described = json.dumps(dict(facts), sort_keys=True).encode()
        body = _HEAD.pack(_MAGIC, len(described), len(data)) + described + data
        with _told(self.folder):
            write_bytes(self.folder / name, body + _tag(self._key(), body))

    def require_space(self, size: int) -> None:
        """Raise `BackendError` unless `size` more bytes fit: known before minutes of building, not after."""
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise BackendError(
                f"{free >> 20} MiB are free at {self.folder}",
                expected=f"{-(-size >> 20)} MiB for an engine",
                fix=_DISK_FIX,
            )

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Keep other processes from building the same meanwhile; waits for one that does."""
        with _told(self.folder):
            stream = (self.folder / f"{name}.lock").open("w")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.warning("another process is at %s: waiting for it", name)
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def _key(self) -> bytes:
        """Return the device's key, made if there is none that only this user can have read."""
        path = self.folder / "key"
        with suppress(FileNotFoundError):
            key, why = _read_key(path)
            if key is not None:
                return key
            _log.warning("a new key for engines is made: %s; engines are built again", why)
            path.unlink()
        with _told(self.folder):
            partial = self.folder / f".key.{secrets.token_hex(4)}"
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
                os.fsync(descriptor)
                with suppress(FileExistsError):  # another process was first: its key counts
                    os.link(partial, path)
            finally:
                os.close(descriptor)
                partial.unlink()
        key, why = _read_key(path)
        if key is None:
            raise BackendError(f"the key for engines at {self.folder} cannot be used: {why}", fix="remove it")
        return key


def _read_key(path: Path) -> tuple[bytes | None, str]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise
    except OSError as error:
        return None, f"the old one cannot be read ({error.strerror})"
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if stat.S_IMODE(status.st_mode) != 0o600 or status.st_uid != os.geteuid():
            return None, f"others may have read or written the old one (mode {stat.S_IMODE(status.st_mode):04o})"
        key = stream.read(_KEY_BYTES + 1)
    return (key, "") if len(key) == _KEY_BYTES else (None, f"the old one has {len(key)} bytes")


def _tag(key: bytes, body: bytes | memoryview) -> bytes:
    return hmac.new(key, body, hashlib.sha256).digest()


def _unseal(sealed: bytes, key: bytes, name: str) -> tuple[dict[str, str], bytes]:
    if len(sealed) < _HEAD.size + _TAG_BYTES:
        raise UnusableError(f"{name} is truncated")
    magic, described, size = _HEAD.unpack_from(sealed)
    if magic != _MAGIC:
        raise UnusableError(f"{name} is not an engine of edgeseg's")
    length = _HEAD.size + described + size
    if len(sealed) != length + _TAG_BYTES:
        raise UnusableError(f"{name} is truncated: {len(sealed)} of {length + _TAG_BYTES} bytes")
    if not hmac.compare_digest(_tag(key, memoryview(sealed)[:length]), sealed[length:]):
        raise UnusableError(f"{name} has a wrong tag: it was altered or sealed on another device")
    facts = json.loads(sealed[_HEAD.size : _HEAD.size + described])
    return facts, sealed[_HEAD.size + described : length]


_DISK_FIX = "free some disk, or point XDG_CACHE_HOME at a disk that has room"


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        fix = _DISK_FIX if full else "let this user write there, or set XDG_CACHE_HOME"
        raise BackendError(f"engines cannot be kept at {folder}: {error.strerror}", fix=fix) from error
