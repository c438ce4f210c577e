"""Signatures by OpenSSH: `ssh-keygen -Y verify` against a list of keys that are trusted here.

Times are handed over without the suffix `Z`, which OpenSSH 8.9 (Ubuntu 22.04) does not know; the tool runs in UTC.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from .errors import AgentError

_REVOKED = b"SSHKRL\n\0"


def verify_signature(
    data: bytes, signature: bytes, *, namespace: str, allowed: Path, revoked: Sequence[Path], at: int
) -> str:
    """Return the id of the trusted key that signed `data`.

    `allowed` is OpenSSH's allowed-signers file, `revoked` its lists of revoked keys (those that exist count), `at`
    the time to judge the keys' validity by, in seconds since 1970. Raises `AgentError`.
    """
    if not allowed.is_file():
        raise AgentError(f"no trusted keys at {allowed}", fix="install the allowed_signers file of your release keys")
    with tempfile.NamedTemporaryFile(prefix="edgeseg-signature-") as file:
        file.write(signature)
        file.flush()
        moment = datetime.fromtimestamp(at, timezone.utc).strftime("%Y%m%d%H%M%S")
        common = ["-s", file.name, "-f", str(allowed), f"-Overify-time={moment}"]
        found = _ssh_keygen(["-Y", "find-principals", *common], b"")
        if found.returncode != 0:
            raise AgentError(
                f"not signed by a key that is trusted here ({_reason(found)})",
                expected=f"a signature by a key in {allowed}",
                fix="sign with a trusted key, or add the key to the list",
            )
        key_id = found.stdout.decode().split("\n")[0]
        verify = ["-Y", "verify", *common, "-n", namespace, "-I", key_id]
        verdict = _ssh_keygen(verify, data)
        if verdict.returncode != 0:
            raise AgentError(f"the signature of {key_id} does not hold ({_reason(verdict)})", fix="sign again")
        for path in filter(Path.is_file, revoked):
            # Without this mark OpenSSH takes a damaged list for a list of no keys.
            if path.read_bytes()[: len(_REVOKED)] != _REVOKED:
                raise AgentError(f"{path} is no list of revoked keys", fix="make it with edgeseg deploy revoke")
            if _ssh_keygen([*verify, "-r", str(path)], data).returncode != 0:
                raise AgentError(f"the key {key_id} is revoked by {path}", fix="sign with a key that is not")
    return key_id


def _ssh_keygen(arguments: list[str], data: bytes) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "TZ": "UTC", "LC_ALL": "C"}
    command = ["ssh-keygen", *arguments]
    try:
        return subprocess.run(command, input=data, capture_output=True, env=environment, check=False, timeout=60)
    except FileNotFoundError:
        raise AgentError("ssh-keygen is not installed", fix="apt-get install openssh-client") from None


def _reason(process: subprocess.CompletedProcess[bytes]) -> str:
    # The first line has the cause; before it comes the place in the list.
    lines = (process.stderr or process.stdout).decode(errors="replace").strip().splitlines()
    return lines[0].rpartition(": ")[2] if lines else f"status {process.returncode}"
