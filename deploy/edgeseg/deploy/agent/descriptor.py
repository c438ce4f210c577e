"""`release.json`, the signed part of a release: its version, what it needs, and the hash of every file in it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .device import Device
from .errors import AgentError

SCHEMA = "edgeseg/release/1"
DESCRIPTOR, SIGNATURE = "release.json", "release.sig"
NAMESPACE = "edgeseg.release"
FOLDERS = ("bundle", "wheelhouse", "units", "trust")
MAX_DESCRIPTOR_BYTES = 1 << 22

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"\d+(\.\d+)*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES = 1 << 32


@dataclass(frozen=True)
class Needs:
    """What a release asks of a device. None asks nothing."""

    machine: str | None = None
    python: str | None = None
    jetpack_min: str | None = None
    jetpack_max: str | None = None
    memory_mb: int | None = None
    gpu: tuple[str, ...] | None = None

    def unmet(self, device: Device) -> tuple[str, str] | None:
        """Return (found, expected) for the first demand that `device` does not meet, or None."""
        for field in ("machine", "python"):
            wanted, found = getattr(self, field), getattr(device, field)
            if wanted is not None and found != wanted:
                return f"{field} {found}", str(wanted)
        if self.jetpack_min or self.jetpack_max:
            low, high = self.jetpack_min or "0", self.jetpack_max or "99999"
            ours = device.jetpack
            # 6.2.1 is still 6.2 at the upper end
            if ours is None or _numbers(ours) < _numbers(low) or _numbers(ours)[: high.count(".") + 1] > _numbers(high):
                return f"JetPack {ours or 'unknown'}", f"{self.jetpack_min or 'any'} to {self.jetpack_max or 'any'}"
        if self.memory_mb is not None and device.memory_mb < self.memory_mb:
            return f"{device.memory_mb} MB of memory", f"at least {self.memory_mb}"
        if self.gpu is not None and device.gpu not in self.gpu:
            return f"GPU {device.gpu or 'unknown'}", " or ".join(self.gpu)
        return None


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Descriptor:
    """A release as it describes itself. `version` only grows; times are seconds since 1970."""

    name: str
    version: int
    created: int
    expires: int | None
    needs: Needs
    files: dict[str, FileEntry]
    digest: str
    """SHA-256 of `release.json`: the release's identity."""

    def __str__(self) -> str:
        return f"{self.name} version {self.version} ({self.digest[:12]})"

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def parse_descriptor(data: bytes) -> Descriptor:
    """Return what `release.json` says. Raises `AgentError` on anything unknown, missing or of the wrong kind."""
    try:
        document = json.loads(data)
        if document["schema"] != SCHEMA:
            raise AgentError(f"release of schema {document['schema']!r}", expected=SCHEMA, fix="update the agent")
        return _descriptor(document, hashlib.sha256(data).hexdigest())
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise AgentError(f"{DESCRIPTOR} is malformed: {reason}", fix="make the release again") from None


def parse_time(text: str) -> int:
    """Return the seconds since 1970 of a UTC time such as 2026-11-22T08:00:00Z. Raises `ValueError`."""
    return int(datetime.strptime(text, _TIME).replace(tzinfo=timezone.utc).timestamp())


def format_time(seconds: int) -> str:
    """Return seconds since 1970 as UTC, the opposite of `parse_time`."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime(_TIME)


def _descriptor(document: dict[str, Any], digest: str) -> Descriptor:
    _check(set(document) <= {"schema", "name", "version", "created", "expires", "needs", "files"}, "an unknown field")
    name, version, expires = document["name"], document["version"], document.get("expires")
    _check(isinstance(name, str) and _NAME.fullmatch(name) is not None, f"name {name!r}")
    _check(type(version) is int and 0 < version < 1 << 53, f"version {version!r}")
    return Descriptor(
        name=name,
        version=version,
        created=parse_time(document["created"]),
        expires=None if expires is None else parse_time(expires),
        needs=_needs(document["needs"]),
        files={path: _file(path, entry) for path, entry in document["files"].items()},
        digest=digest,
    )


def _needs(table: dict[str, Any]) -> Needs:
    checks: dict[str, Callable[[Any], bool]] = {
        "machine": lambda value: isinstance(value, str),
        "python": _is_version,
        "jetpack_min": _is_version,
        "jetpack_max": _is_version,
        "memory_mb": lambda value: type(value) is int,
        "gpu": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    }
    for key, value in table.items():
        _check(key in checks, f"unknown need {key!r}")  # a demand that is not understood is not met
        _check(checks[key](value), f"need {key} {value!r}")
    values: dict[str, Any] = {key: tuple(value) if key == "gpu" else value for key, value in table.items()}
    return Needs(**values)


def _file(path: str, entry: dict[str, Any]) -> FileEntry:
    parts = path.split("/")
    plain = path.isprintable() and not set(path) & set("\\:") and not {"", ".", ".."} & set(parts)
    _check(plain and len(parts) > 1 and parts[0] in FOLDERS, f"path {path!r}")
    size, sha256 = entry["size"], entry["sha256"]
    _check(type(size) is int and 0 <= size < _MAX_FILE_BYTES, f"size of {path}")
    _check(isinstance(sha256, str) and _SHA256.fullmatch(sha256) is not None, f"sha256 of {path}")
    return FileEntry(size, sha256)


def _is_version(value: Any) -> bool:
    return isinstance(value, str) and _VERSION.fullmatch(value) is not None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
