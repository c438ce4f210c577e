"""`fleet.toml`: the devices, their groups, how each is reached, and what it is pinned to.

    known_hosts = "known_hosts"      # optional; beside this file

    [variables]                      # of every device
    identity = "id_fleet"

    [groups.gates]                   # of a group; later groups of a device win over earlier ones
    port = 2222

    [devices.gate-1]
    address = "10.0.0.11"
    groups = ["gates"]
    canary = true

    [devices.yard-1]
    address = "yard-1.example"
    pin = 7                          # takes this version and no other; a device's own variables win

The variables are `user`, `port`, `identity` (a private key, beside this file), `agent` and `logs` (command lines on the
device) and `pin`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgeseg.deploy.errors import DeployError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Nothing here may be taken for an option of ssh.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
_Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9:][A-Za-z0-9:._%-]*$")]
_Words = Annotated[tuple[str, ...], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device, with the variables of its groups filled in."""

    name: str
    address: str
    groups: tuple[str, ...] = ()
    canary: bool = False
    known_hosts: Path
    user: str = "edgeseg-agent"
    port: int = 22
    identity: Path | None = None
    """None: whatever ssh finds by itself."""
    agent: tuple[str, ...] = ("/opt/edgeseg/agent",)
    logs: tuple[str, ...] = ("journalctl", "--no-pager", "--output=short-iso", "--unit=edgeseg*", "--lines={lines}")
    """`{lines}` stands for how many are asked for."""
    pin: int | None = None


class _Variables(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    user: _Name | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    identity: Path | None = None
    agent: _Words | None = None
    logs: _Words | None = None
    pin: Annotated[int, Field(ge=1)] | None = None


class _Device(_Variables):
    address: _Address
    groups: tuple[str, ...] = ()
    canary: bool = False


class _Inventory(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    known_hosts: Path = Path("known_hosts")
    variables: _Variables = _Variables()
    groups: dict[_Name, _Variables] = {}
    devices: Annotated[dict[_Name, _Device], Field(min_length=1)]


def load_inventory(path: Path) -> list[Device]:
    """Return the devices of the inventory at `path`, in its order. Raises `DeployError`, one line."""
    try:
        inventory = _Inventory.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DeployError(f"cannot read {path}: {error.strerror}", fix="give --inventory a file that exists") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DeployError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise DeployError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return [_device(name, device, inventory, path) for name, device in inventory.devices.items()]


def select(devices: Sequence[Device], *, groups: Sequence[str] = (), limit: Sequence[str] = ()) -> list[Device]:
    """Return the devices that are in one of `groups` and whose name matches one of the patterns in `limit`.

    An empty sequence selects all. A word that selects nothing raises `DeployError`.
    """
    for group in groups:
        known = sorted({name for device in devices for name in device.groups})
        if group not in known:
            raise DeployError(f"no device is in group {group!r}", expected=f"one of {', '.join(known) or 'no groups'}")
    for pattern in limit:
        if not any(fnmatchcase(device.name, pattern) for device in devices):
            names = ", ".join(device.name for device in devices[:8])
            raise DeployError(f"no device is named {pattern!r}", expected=names + (", …" if len(devices) > 8 else ""))
    chosen = [
        device
        for device in devices
        if (not groups or set(groups) & set(device.groups))
        and (not limit or any(fnmatchcase(device.name, pattern) for pattern in limit))
    ]
    if not chosen:
        raise DeployError("no device is in these groups and has such a name")
    return chosen


def _device(name: str, device: _Device, inventory: _Inventory, path: Path) -> Device:
    variables: dict[str, Any] = {}
    for group in device.groups:
        if group not in inventory.groups:
            raise DeployError(f"{path}: {name} is in group {group!r}", expected=f"a table [groups.{group}]")
    for layer in (inventory.variables, *(inventory.groups[group] for group in device.groups), device):
        variables |= layer.model_dump(exclude_none=True)
    if "identity" in variables:
        variables["identity"] = (path.parent / variables["identity"].expanduser()).absolute()
    known_hosts = (path.parent / inventory.known_hosts.expanduser()).absolute()
    return Device(name=name, known_hosts=known_hosts, **variables)
