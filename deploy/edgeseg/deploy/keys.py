"""Release keys: OpenSSH's ed25519 keys and signatures, so that a bare device can verify them.

A signature names what it is for (its namespace): one over a bundle's manifest never passes for one over a release.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from edgeseg.deploy.agent.descriptor import NAMESPACE as RELEASE_NAMESPACE
from edgeseg.deploy.agent.errors import AgentError
from edgeseg.deploy.agent.signature import verify_signature
from edgeseg.deploy.errors import DeployError
from edgeseg.runtime.files import whole_file, write_bytes

BUNDLE_NAMESPACE = "edgeseg.bundle"
KEY_TYPE = "ssh-ed25519"


def make_key(path: Path, key_id: str) -> None:
    """Write a new key pair to `path` and `path`.pub. A passphrase is asked for at a terminal only."""
    public = path.with_name(path.name + ".pub")
    for existing in (path, public):
        if existing.exists():
            raise DeployError(f"{existing} is there already", fix="choose another --out: keys are never overwritten")
    _check_id(key_id)
    _make_folder(path)
    passphrase = [] if sys.stdin.isatty() else ["-N", ""]
    _run(["-q", "-t", "ed25519", "-C", key_id, *passphrase, "-f", str(path)], "cannot make a key")


def sign(data: bytes, key: Path, namespace: str) -> bytes:
    """Return the detached signature of `data` by the private `key`."""
    if not key.is_file():
        raise DeployError(f"{key}: no such key", fix="make one with edgeseg keygen")
    return _run(["-q", "-Y", "sign", "-f", str(key), "-n", namespace], f"cannot sign with {key}", data)


def verify(data: bytes, signature: bytes, *, key: Path, namespace: str, at: int) -> str:
    """Return the id of the key if `signature` over `data` is by it. `key` is KEY.pub or a list of trusted keys.

    `at` is the time to judge a list's validity by, in seconds since 1970. Raises `DeployError`.
    """
    with tempfile.NamedTemporaryFile(prefix="edgeseg-trusted-") as file:
        allowed = key
        if (lone := _public_key(key)) is not None:
            key_type, material, key_id = lone
            file.write(f"{key_id} {key_type} {material}\n".encode())
            file.flush()
            allowed = Path(file.name)
        try:
            return verify_signature(data, signature, namespace=namespace, allowed=allowed, revoked=(), at=at)
        except AgentError as error:
            found = error.found.replace(str(allowed), str(key))
            raise DeployError(found, expected=f"a signature by {key}", fix="sign it with that key") from None


def trust_line(public_key: Path, key_id: str, *, not_before: str | None = None, not_after: str | None = None) -> str:
    """Return the line of an allowed-signers file that trusts `public_key`, between two days (YYYYMMDD) if given."""
    found = _public_key(public_key)
    if found is None:
        raise DeployError(f"{public_key} is no ed25519 public key", expected="a KEY.pub of edgeseg keygen")
    _check_id(key_id)
    options = [f'namespaces="{BUNDLE_NAMESPACE},{RELEASE_NAMESPACE}"']
    for name, day in (("valid-after", not_before), ("valid-before", not_after)):
        if day is not None:
            if len(day) != 8 or not day.isdecimal():
                raise DeployError(f"{day!r} is no day", expected="YYYYMMDD")
            options.append(f'{name}="{day}"')
    return f"{key_id} {','.join(options)} {found[0]} {found[1]}\n"


def add_trust(allowed: Path, line: str) -> None:
    """Add a line to an allowed-signers file; one for the same key id replaces the old."""
    _make_folder(allowed)
    key_id = line.split(" ", 1)[0]
    old = allowed.read_text(encoding="utf-8").splitlines(keepends=True) if allowed.exists() else []
    kept = [item for item in old if item.split(" ", 1)[0] != key_id]
    write_bytes(allowed, "".join([*kept, line]).encode())


def revoke(public_key: Path, revoked: Path) -> None:
    """Add `public_key` to the list of revoked keys at `revoked`, made if it is not there."""
    _make_folder(revoked)
    with whole_file(revoked) as partial:
        update = []
        if revoked.exists():
            partial.write_bytes(revoked.read_bytes())
            update = ["-u"]
        _run(["-q", "-k", *update, "-f", str(partial), str(public_key)], f"cannot revoke {public_key}")


def _public_key(path: Path) -> tuple[str, str, str] | None:
    """Return (type, material, comment) if `path` holds a single public key, None if it holds something else."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise DeployError(f"cannot read {path}: {error.strerror}", fix="give the public key, KEY.pub") from None
    except UnicodeDecodeError:
        return None
    if len(words) not in (2, 3) or words[0] != KEY_TYPE:
        return None
    return words[0], words[1], words[2] if len(words) == 3 else "release"


def _check_id(key_id: str) -> None:
    if not key_id or not all(letter.isascii() and (letter.isalnum() or letter in "._@-") for letter in key_id):
        raise DeployError(f"key id {key_id!r}", expected="letters, digits and . _ @ -")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DeployError(f"cannot make {path.parent}: {error.strerror}", fix="choose another place") from None


def _run(arguments: list[str], problem: str, data: bytes | None = None) -> bytes:
    # With no data the tool keeps the terminal, to ask for a passphrase; it asks there for a key's own in any case.
    stdin = {"input": data} if data is not None else {}
    command = ["ssh-keygen", *arguments]
    try:
        ended = subprocess.run(command, capture_output=True, check=False, **stdin)  # type: ignore[call-overload]
    except FileNotFoundError:
        raise DeployError("ssh-keygen is not installed", fix="apt-get install openssh-client") from None
    if ended.returncode:
        raise DeployError(f"{problem}: {ended.stderr.decode(errors='replace').strip()}")
    return bytes(ended.stdout)
