"""`/etc/edgeseg/agent.json`: what the owner of the device decides."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .device import Device
from .errors import AgentError

DEFAULT = Path("/etc/edgeseg/agent.json")

_Command = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The agent's settings. In commands, `{slot}` stands for the folder of the release that they are about."""

    root: Path = Path("/var/lib/edgeseg")
    """Slots, links, state and uploads: one file system, owned by the agent."""
    health: Path = Path("/run/edgeseg/health.json")
    """Where the service tells how it is, once a second."""
    allowed_signers: Path = Path("/etc/edgeseg/allowed_signers")
    """The trusted keys, until a permanent release brings its own list."""
    revoked_keys: Path = Path("/etc/edgeseg/revoked_keys")

    prepare: tuple[_Command, ...] = (
        ("python3", "-m", "venv", "--system-site-packages", "{slot}/prepared/venv"),
        (
            *("{slot}/prepared/venv/bin/python", "-m", "pip", "install", "--quiet", "--no-index"),
            *("--find-links", "{slot}/wheelhouse", "edgeseg[jetson]"),
        ),
    )
    """Commands run one after the other in the idle slot before the switch; what they make belongs in `prepared/`."""
    build: tuple[_Command, ...] = (("{slot}/prepared/venv/bin/edgeseg", "build", "{slot}/bundle"),)
    """Commands run after those, as the user that the service runs as, with XDG_CACHE_HOME where the service will look.
    Empty where nothing is to be built, as without TensorRT."""
    prepare_timeout_s: float = 7200
    """For each command of `prepare`, and for `build`: an engine on a small device takes its time."""
    builder: Path = Path("/run/edgeseg-engines.socket")
    """Where engines are asked for."""
    engines: Path = Path("/var/lib/edgeseg-engines")
    """Where they are kept, owned by the service's user, and written by nothing but their build."""
    restart: _Command = ("touch", "/run/edgeseg-agent/restart")
    """Restarts the service, its start limit forgotten; may return before that is done."""
    serve: _Command = ("{slot}/prepared/venv/bin/edgeseg", "run", "{slot}/bundle", "--source", "0", "--sink", "null")
    """What the service runs."""
    stages: tuple[str, ...] = ("capture", "inference", "sinks")
    stage_limit_s: float = 30
    """How long a stage may be silent before the watchdog is no longer fed."""

    probation_s: float = 300
    """Healthy seconds that make a version permanent."""
    start_s: float = 180
    """Seconds without health that end a trial; the loading of an engine is among them."""
    max_boots: int = 3
    """Boots within one trial that still pass for power cuts."""
    age_factor: float = 1.5
    age_slack_ms: float = 50
    """A release is too slow if its frame age is above the old one's times `age_factor` plus `age_slack_ms`."""
    golden_min: float = 1.0
    """Least share of the agreement with golden masks that the bundle requires; 1 is all of it."""
    least_free_mb: int = 32
    """Free space below which a trial ends: the version fills the disk."""
    retry_s: float = 60
    """Pause before a permanent version that hit systemd's start limit is started again."""

    power_mode: int | None = None
    """The number of the mode for `nvpmodel`; None leaves it as it is."""
    max_clocks: bool = False
    """Keep the clocks at the highest that the mode allows, by `jetson_clocks`."""
    reserve_mb: int = 256
    """Free space that must remain after an upload or an unpacking."""
    clock: str = "auto"
    """`trusted` where a battery keeps the time, `untrusted` where nothing does, `auto` to ask the kernel."""
    device: dict[str, str | int] = field(default_factory=dict)
    """Facts that cannot be read on this device, such as {"jetpack": "6.2"}."""


def load_config(path: Path) -> Config:
    """Return the settings in the JSON file `path`, defaults where it is silent. Raises `AgentError`."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        kinds = {item.name: str(item.type) for item in fields(Config)}
        unknown = sorted(set(table) - set(kinds))
        if unknown:
            raise AgentError(f"unknown setting {unknown[0]!r} in {path}", expected=f"one of {', '.join(kinds)}")
        return Config(**{key: _convert(key, kinds[key], value) for key, value in table.items()})
    except FileNotFoundError:
        raise AgentError(
            f"{path}: no such file", fix="write the agent's settings there; {} takes the defaults"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise AgentError(f"{path} is not a table of settings: {error}") from None


def _convert(key: str, kind: str, value: Any) -> Any:
    expected: dict[str, type | tuple[type, ...]] = {
        "Path": str, "float": (int, float), "int": int, "int | None": int, "bool": bool, "str": str
    }  # fmt: skip
    if value is None and kind.endswith("| None"):
        return None
    if kind in expected:
        if not isinstance(value, expected[kind]) or isinstance(value, bool) != (kind == "bool"):
            raise ValueError(f"{key} is {value!r}")
        if kind == "str" and value not in ("auto", "trusted", "untrusted"):
            raise ValueError(f"{key} is {value!r}")
        return Path(str(value)) if kind == "Path" else value
    if kind.startswith("dict"):
        known = {item.name for item in fields(Device)}
        if not set(value) <= known:
            raise ValueError(f"{key} knows only {', '.join(sorted(known))}")
        return dict(value)
    nested = kind != "_Command" and "_Command" in kind
    lists = value if nested else [value]
    if not all(isinstance(words, list) and all(isinstance(word, str) for word in words) for words in lists):
        raise ValueError(f"{key} is {value!r}")
    return tuple(map(tuple, value)) if nested else tuple(value)
