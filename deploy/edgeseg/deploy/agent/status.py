"""What the device runs, as one document."""

from __future__ import annotations

import fcntl
from dataclasses import asdict
from typing import Any

from .activation import Agent
from .config import Config
from .descriptor import format_time
from .device import Clock
from .health import read_health

SCHEMA = "edgeseg/device-status/1"


def read_status(config: Config, clock: Clock) -> dict[str, Any]:
    """Return the status. It takes no lock and changes nothing, so it can be asked for at any instant."""
    agent = Agent(config, clock)
    slots, state, trial = agent.slots, agent.records.load_state(), agent.records.load_trial()
    health = read_health(config.health)
    told = health is not None and health.fresh(clock.boot_id(), clock.monotonic())
    current, good = slots.current, slots.good
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "busy": _busy(config),
        "on_trial": current is not None and current != good,
        "highest_version": state.highest_version,
        "failed": state.failed,
        "last": state.last,
        "clock": {"now": format_time(clock.wall()), "known_to_be_set": clock.synchronised()},
        "damaged_records": agent.records.damaged(),
    }
    for key, slot in (("current", current), ("good", good)):
        release = slots.descriptor(slot) if slot else None
        if slot is not None:
            fault = slots.fault(slot)
            document[key] = {"slot": slot, "whole": fault is None}
            if release is not None:
                document[key] |= {"name": release.name, "version": release.version, "digest": release.digest}
            if fault is not None:
                document[key]["fault"] = fault
    if trial is not None:
        document["trial"] = {key: value for key, value in asdict(trial).items() if value not in (None, "")}
    if told:
        document["health"] = {key: value for key, value in asdict(health).items() if value is not None}  # type: ignore[arg-type]
    return document


def _busy(config: Config) -> bool:
    try:
        with (config.root / "lock").open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
