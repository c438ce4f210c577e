"""A release: a bundle, the wheels that run it, the units and the trusted keys, signed as a whole, in a single file.

The same content gives the same bytes, signature included (ed25519 signs deterministically).
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from edgeseg.deploy.agent.archive import open_archive
from edgeseg.deploy.agent.descriptor import (
    DESCRIPTOR,
    NAMESPACE,
    SCHEMA,
    SIGNATURE,
    Descriptor,
    format_time,
    parse_descriptor,
)
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.keys import sign, verify
from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.files import sha256_file, whole_file

_FIXED_TIME = (1980, 1, 1, 0, 0, 0)
_SECRET = b"PRIVATE KEY-----"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What goes into a release. `needs` as in `agent.descriptor.Needs`; times are seconds since 1970."""

    name: str
    version: int
    created: int
    expires: int | None = None
    needs: Mapping[str, Any]
    bundle: Path
    wheelhouse: Path | None = None
    trust: Path | None = None
    """A folder with `allowed_signers` and `revoked_keys`, which the device goes by once this release is permanent."""


def write_release(plan: Plan, key: Path, out: Path) -> Descriptor:
    """Write the signed release to `out`, whole or not at all. Raises `DeployError` or `BundleError`."""
    with open_bundle(plan.bundle) as bundle, resources.as_file(resources.files("edgeseg.deploy") / "units") as units:
        sources = dict(_files("bundle", bundle.path))
        sources.update(_files("units", units))
        for folder, path in (("wheelhouse", plan.wheelhouse), ("trust", plan.trust)):
            if path is not None:
                sources.update(_files(folder, path))
        document = {
            "schema": SCHEMA,
            "name": plan.name,
            "version": plan.version,
            "created": format_time(plan.created),
            **({} if plan.expires is None else {"expires": format_time(plan.expires)}),
            "needs": dict(plan.needs),
            "files": {
                name: {"size": path.stat().st_size, "sha256": sha256_file(path)}
                for name, path in sorted(sources.items())
            },
        }
        descriptor_bytes = (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()
        with _as_deploy_errors():
            descriptor = parse_descriptor(descriptor_bytes)
        members: dict[str, bytes | Path] = {
            DESCRIPTOR: descriptor_bytes,
            SIGNATURE: sign(descriptor_bytes, key, NAMESPACE),
            **sources,
        }
        with whole_file(out) as partial:
            _write_zip(partial, members)
    return descriptor


def is_release(path: Path) -> bool:
    """Tell a release from a bundle's archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return DESCRIPTOR in archive.namelist()


def verify_release(path: Path, key: Path) -> tuple[Descriptor, str]:
    """Return a release's descriptor and the id of the key that signed it, all its files checked."""
    with _as_deploy_errors(), open_archive(path) as archive:
        data, signature = archive.descriptor_bytes, archive.signature
        key_id = verify(data, signature, key=key, namespace=NAMESPACE, at=int(time.time()))
        archive.check()
        return archive.descriptor, key_id


def write_agent(out: Path) -> None:
    """Write the device agent to `out` as a single file that Python 3.10 or later runs; the same bytes each time."""
    main = b"import sys\nfrom edgeseg_agent.__main__ import main\nsys.exit(main())\n"
    members: dict[str, bytes | Path] = {"__main__.py": main}
    for item in resources.files("edgeseg.deploy.agent").iterdir():
        if item.name.endswith(".py"):
            members[f"edgeseg_agent/{item.name}"] = item.read_bytes()
    for item in (resources.files("edgeseg.deploy") / "units").iterdir():
        members[f"edgeseg_agent/units/{item.name}"] = item.read_bytes()
    with whole_file(out) as partial:
        _write_zip(partial, members, shebang=b"#!/usr/bin/env python3\n")
        partial.chmod(0o755)


def _files(prefix: str, folder: Path) -> Iterator[tuple[str, Path]]:
    if not folder.is_dir():
        raise DeployError(f"{folder}: no such folder")
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DeployError(f"{path} is not a regular file", fix="put the file itself there, not a link")
        if path.is_file():
            with path.open("rb") as stream:
                if _SECRET in stream.read(64):
                    raise DeployError(f"{path} is a private key", fix="keep it out of the release")
            yield f"{prefix}/{path.relative_to(folder).as_posix()}", path


def _write_zip(path: Path, members: Mapping[str, bytes | Path], shebang: bytes = b"") -> None:
    with path.open("wb") as stream:
        stream.write(shebang)
        with zipfile.ZipFile(stream, "w") as archive:
            for name in sorted(members):
                info = zipfile.ZipInfo(name, _FIXED_TIME)
                info.create_system = 3
                info.external_attr = 0o100644 << 16
                content = members[name]
                archive.writestr(info, content if isinstance(content, bytes) else content.read_bytes())


@contextmanager
def _as_deploy_errors() -> Iterator[None]:
    try:
        yield
    except AgentError as error:
        raise DeployError(error.found, expected=error.expected, fix=error.fix) from None
