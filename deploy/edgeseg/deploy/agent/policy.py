"""Which releases a device takes."""

from __future__ import annotations

from pathlib import Path

from .archive import Archive
from .config import Config
from .descriptor import NAMESPACE, Descriptor, format_time
from .device import Clock, read_device
from .errors import AgentError
from .files import free_bytes
from .records import State
from .signature import verify_signature
from .slots import NAMES, Slots

_DAY_S = 86400


def believed_time(clock: Clock, state: State, created: int) -> tuple[int, bool]:
    """Return the time to judge by, in seconds since 1970, and whether it is the clock's own.

    The clock is believed if it is known to be set and not behind what was signed before or is signed now; if not,
    it is at least as late as that. So a device with no clock takes releases, and one that is behind loses no
    protection it already had.
    """
    now = clock.wall()
    if clock.synchronised() and now >= max(state.time_floor, created - _DAY_S):
        return now, True
    return max(state.time_floor, created), False


def accept(archive: Archive, *, config: Config, clock: Clock, slots: Slots, state: State) -> Descriptor:
    """Return the descriptor of a release that may be activated here. Raises `AgentError`, one line, if it may not."""
    descriptor = archive.descriptor
    now, known = believed_time(clock, state, descriptor.created)
    allowed, revoked = trust(config, slots)
    verify_signature(
        archive.descriptor_bytes, archive.signature, namespace=NAMESPACE, allowed=allowed, revoked=revoked, at=now
    )
    if descriptor.expires is not None and now > descriptor.expires:
        by = "the clock" if known else "what was signed since"
        raise AgentError(
            f"{descriptor} expired on {format_time(descriptor.expires)}, and by {by} it is {format_time(now)}",
            fix="make a new release, or set this device's clock",
        )
    unmet = descriptor.needs.unmet(read_device(config.device))
    if unmet is not None:
        raise AgentError(
            f"this device has {unmet[0]}",
            expected=f"{unmet[1]}, as {descriptor} needs",
            fix="make a release for this device, or name what cannot be read under `device` in the agent's settings",
        )
    _refuse_old(descriptor, slots, state)
    if descriptor.digest in state.failed:
        raise AgentError(
            f"{descriptor} failed here before: {state.failed[descriptor.digest]}", fix="make a new version of it"
        )
    return descriptor


def trust(config: Config, slots: Slots) -> tuple[Path, list[Path]]:
    """Return the list of trusted keys, and the lists of revoked ones.

    The permanent release's own list replaces the configured one: that is how keys are rotated. Revocations add up, so
    going back to an older release trusts nobody again.
    """
    good = slots.good
    own = slots.path(good) / "trust" / "allowed_signers" if good else None
    allowed = own if own is not None and own.is_file() else config.allowed_signers
    return allowed, [config.revoked_keys, *(slots.path(name) / "trust" / "revoked_keys" for name in NAMES)]


def require_space(config: Config, size: int) -> None:
    """Raise `AgentError` unless `size` more bytes leave the reserve untouched."""
    free, needed = free_bytes(config.root), size + config.reserve_mb * (1 << 20)
    if free < needed:
        raise AgentError(
            f"{free >> 20} MB are free on this device", expected=f"{(needed >> 20) + 1} MB", fix="free some space"
        )


def _refuse_old(descriptor: Descriptor, slots: Slots, state: State) -> None:
    good = slots.descriptor(slots.good) if slots.good else None
    if good is not None:  # should all records be lost, the permanent slot still knows its version
        state = state.with_permanent(good)
    if descriptor.version < state.highest_version:
        raise AgentError(
            f"{descriptor} is older than version {state.highest_version}, which was permanent here",
            fix="sign its content again under a higher version",
        )
    if descriptor.version == state.highest_version and descriptor.digest != state.highest_digest:
        raise AgentError(
            f"version {descriptor.version} was another release here", fix="sign it again under a higher version"
        )
