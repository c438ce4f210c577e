"""`edgeseg keygen`, `sign`, `verify` and `deploy`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from edgeseg.deploy import keys, release
from edgeseg.deploy.agent.descriptor import parse_time
from edgeseg.deploy.errors import DeployError
from edgeseg.deploy.fleet import commands as fleet
from edgeseg.runtime.bundle import Bundle, open_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.files import write_bytes
from edgeseg.runtime.manifest import MANIFEST, SIGNATURE

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(epilog="Example: edgeseg keygen --out release-2026")
@click.option("--out", type=_FILE, required=True, metavar="KEY", help="Where to write KEY and KEY.pub.")
@click.option("--id", "key_id", help="The key's name in lists of trusted keys. Default: KEY's file name.")
def keygen(out: Path, key_id: str | None) -> None:
    """Make an ed25519 key to sign with, in OpenSSH's format."""
    keys.make_key(out, key_id or out.name)
    console.print(f"wrote {out} (keep it secret) and {out}.pub")


@click.command(epilog="Example: edgeseg sign street.bundle --key release-2026")
@click.argument("bundle")
@click.option("--key", type=_FILE, required=True, help="The private key of `edgeseg keygen`.")
def sign(bundle: str, key: Path) -> None:
    """Sign a bundle's folder: its manifest, which pins every other file."""
    with open_bundle(bundle) as opened:
        if Path(bundle).is_file():
            raise DeployError(f"{bundle} is an archive", fix="sign the bundle's folder, then pack it")
        signature = keys.sign((opened.path / MANIFEST).read_bytes(), key, keys.BUNDLE_NAMESPACE)
        write_bytes(opened.path / SIGNATURE, signature)
        console.print(f"signed {opened.name} ({opened.manifest_sha256[:12]})")


@click.command(epilog="Example: edgeseg verify street.bundle --key release-2026.pub")
@click.argument("bundle")
@click.option("--key", type=_FILE, required=True, help="KEY.pub, or a list of trusted keys (allowed signers).")
@json_option
def verify(bundle: str, key: Path, json_path: Path | None) -> None:
    """Check that a bundle or a release is whole and signed by a trusted key."""
    if Path(bundle).is_file() and release.is_release(Path(bundle)):
        descriptor, key_id = release.verify_release(Path(bundle), key)
        found: dict[str, Any] = {"release": {"name": descriptor.name, "version": descriptor.version}}
        title, digest = str(descriptor), descriptor.digest
    else:
        with open_bundle(bundle) as opened:
            key_id = _verify_bundle(opened, key)
            found = {"bundle": {"name": opened.name, "manifest_sha256": opened.manifest_sha256}}
            title, digest = opened.name, opened.manifest_sha256
    console.print(f"{title} is whole and signed by {key_id}")
    write_document(json_path, "verify", key_id=key_id, sha256=digest, **found)


def _verify_bundle(bundle: Bundle, key: Path) -> str:
    try:
        signature = (bundle.path / SIGNATURE).read_bytes()
    except FileNotFoundError:
        raise DeployError(f"bundle {bundle.name} is not signed", fix="sign it with edgeseg sign") from None
    data = (bundle.path / MANIFEST).read_bytes()
    return keys.verify(data, signature, key=key, namespace=keys.BUNDLE_NAMESPACE, at=int(time.time()))


@click.group(epilog="Example: edgeseg deploy agent --out edgeseg-agent")
def deploy() -> None:
    """Make signed releases, and bring them to one device or a thousand."""


for _command in fleet.COMMANDS:
    deploy.add_command(_command)


@deploy.command("release", epilog="Example: edgeseg deploy release street --key release-2026 --version 7 --out 7.rel")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", type=_FILE, required=True, help="The private key of `edgeseg keygen`.")
@click.option("--version", type=click.IntRange(min=1), required=True, help="Higher than any before.")
@click.option("--out", type=_FILE, required=True, help="The release, a single file.")
@click.option("--name", help="Default: the bundle's.")
@click.option("--wheelhouse", type=_FOLDER, help="The wheels that the device installs offline.")
@click.option("--trust", type=_FOLDER, help="Folder with allowed_signers and revoked_keys for the time after.")
@click.option("--created", metavar="UTC", help="As 2026-11-22T08:00:00Z. Default: now; fix it for the same bytes.")
@click.option("--expires", metavar="UTC", help="Devices that know the time refuse it afterwards.")
@click.option("--machine", help="Such as aarch64.")
@click.option("--python", help="The device's, such as 3.10.")
@click.option("--jetpack-min", help="Such as 6.1.")
@click.option("--jetpack-max", help="Such as 6.2: 6.2.1 is still within.")
@click.option("--memory-mb", type=click.IntRange(min=1), help="At least this much memory.")
@click.option("--gpu", multiple=True, help="Compute capability such as sm87; repeatable.")
@json_option
def make_release(
    *,
    bundle: Path,
    key: Path,
    version: int,
    out: Path,
    name: str | None,
    wheelhouse: Path | None,
    trust: Path | None,
    created: str | None,
    expires: str | None,
    json_path: Path | None,
    **demands: Any,
) -> None:
    """Pack a bundle, wheels, units and trusted keys into one signed file."""
    with open_bundle(bundle) as opened:
        plan = release.Plan(
            name=name or opened.name,
            version=version,
            created=_utc(created) if created else int(time.time()),
            expires=_utc(expires) if expires else None,
            needs={key: list(value) if key == "gpu" else value for key, value in demands.items() if value},
            bundle=opened.path,
            wheelhouse=wheelhouse,
            trust=trust,
        )
        made = release.write_release(plan, key, out)
    console.print(f"wrote {out}: {made}, {made.size / 1e6:.1f} MB")
    fields = {"name": made.name, "version": made.version, "digest": made.digest, "bytes": out.stat().st_size}
    write_document(json_path, "release", **fields)


@deploy.command("agent", epilog="Example: edgeseg deploy agent --out edgeseg-agent")
@click.option("--out", type=_FILE, required=True, help="The agent, a single file.")
def make_agent(out: Path) -> None:
    """Write the device agent, which needs Python 3.10 and ssh-keygen and nothing else."""
    release.write_agent(out)
    console.print(f"wrote {out}")


@deploy.command("trust", epilog="Example: edgeseg deploy trust release-2026.pub --into trust/allowed_signers")
@click.argument("public_key", type=_FILE)
@click.option("--into", type=_FILE, required=True, help="The list of trusted keys; made if it is not there.")
@click.option("--id", "key_id", help="Default: the key file's name.")
@click.option("--not-before", metavar="YYYYMMDD")
@click.option("--not-after", metavar="YYYYMMDD")
def trust_key(public_key: Path, into: Path, key_id: str | None, not_before: str | None, not_after: str | None) -> None:
    """Trust a key; the same id again replaces it."""
    line = keys.trust_line(public_key, key_id or public_key.stem, not_before=not_before, not_after=not_after)
    keys.add_trust(into, line)
    console.print(f"{into} trusts {line.split(' ', 1)[0]}")


@deploy.command("revoke", epilog="Example: edgeseg deploy revoke release-2025.pub --into trust/revoked_keys")
@click.argument("public_key", type=_FILE)
@click.option("--into", type=_FILE, required=True, help="The list of revoked keys; made if it is not there.")
def revoke_key(public_key: Path, into: Path) -> None:
    """Revoke a key: devices with this list refuse what it signed, whenever it did."""
    keys.revoke(public_key, into)
    console.print(f"{into} revokes {public_key}")


def _utc(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError:
        raise DeployError(f"{text!r} is no time", expected="UTC as in 2026-11-22T08:00:00Z") from None
