"""A device in a folder: the agent as the single file that devices get, release keys, and a clock that tests move."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.devices import Devices, why_not_here

from edgeseg.deploy import keys
from edgeseg.deploy.agent.activation import Agent
from edgeseg.deploy.agent.config import Config
from edgeseg.deploy.agent.device import Clock
from edgeseg.deploy.agent.health import Health, write_health
from edgeseg.deploy.agent.status import read_status
from edgeseg.deploy.release import Plan, write_agent, write_release

SIGNED_AT = 1_767_225_600  # 2026-01-01, the day the releases of these tests are made


class FakeClock(Clock):
    """A clock that stands still until it is moved. It is known to be set unless told otherwise."""

    def __init__(self, wall: int = SIGNED_AT + 86400, *, known: bool = True) -> None:
        super().__init__()
        self.now, self.known, self.up_s, self.boot = wall, known, 100.0, 1

    def wall(self) -> int:
        return self.now

    def synchronised(self) -> bool:
        return self.known

    def monotonic(self) -> float:
        return self.up_s

    def boot_id(self) -> str:
        return f"boot {self.boot}"

    def reboot(self) -> None:
        self.boot, self.up_s = self.boot + 1, 5.0


class Bench:
    """A device below `folder`, in-process by `agent()` and as a program by `run()`."""

    def __init__(self, folder: Path, makers: Makers) -> None:
        self.folder, self.makers, self.clock = folder, makers, FakeClock()
        self.config = Config(
            root=folder / "device",
            health=folder / "health.json",
            allowed_signers=folder / "allowed_signers",
            revoked_keys=folder / "revoked_keys",
            prepare=(("sh", "-c", "echo engine > prepared/engine"),),
            build=(),
            restart=("touch", str(folder / "restarted")),
            reserve_mb=0,
            least_free_mb=0,
            start_s=30,
            probation_s=40,
            retry_s=0,
            clock="untrusted",
            device={"jetpack": "6.2"},
        )
        self.config.allowed_signers.write_text(keys.trust_line(makers.key.with_suffix(".pub"), "test"), "utf-8")

    def set(self, **settings: Any) -> None:
        """Change the agent's settings."""
        self.config = replace(self.config, **settings)

    def agent(self) -> Agent:
        self.config.root.mkdir(exist_ok=True)
        return Agent(self.config, self.clock)

    def status(self) -> dict[str, Any]:
        return read_status(self.config, self.clock)

    def version(self) -> int | None:
        """The version that runs; the device must say that it is whole."""
        current = self.status().get("current")
        assert current is None or current["whole"], current
        return current["version"] if current else None

    def tell(self, **report: Any) -> None:
        """Let the service report that the current version is in good health, but for `report`."""
        descriptor = self.agent().slots.descriptor(self.agent().slots.current or "")
        assert descriptor is not None
        report = {
            "release": descriptor.digest, "boot_id": self.clock.boot_id(), "told_s": self.clock.monotonic(),
            "alive": True, "flowing": True, **report,
        }  # fmt: skip
        write_health(self.config.health, Health(**report))

    def live(self, seconds: float, **report: Any) -> str:
        """Let `seconds` pass, the service reporting and the agent looking, and return the agent's last word."""
        for _ in range(max(1, int(seconds // 10))):
            self.clock.up_s += 10
            self.tell(**report)
            word = self.agent().look()
            if self.agent().records.load_trial() is None:
                break
        return word

    def install(self, version: int, **plan: Any) -> None:
        """Make a version permanent."""
        self.agent().activate(self.makers.release(version, **plan))
        self.agent().guard()
        assert "is permanent" in self.live(self.config.probation_s + 20)

    def write_config(self) -> Path:
        path = self.folder / "agent.json"
        path.write_text(json.dumps(vars(self.config), default=str), encoding="utf-8")
        return path

    def command(self, *arguments: str | Path) -> list[str]:
        """The agent's command line; isolated, so that it can import nothing but itself and the standard library."""
        return [
            *(sys.executable, "-I", "-S", "-B", str(self.makers.unpacked)),
            *("--config", str(self.write_config())),
            *map(str, arguments),
        ]

    def run(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False, **options)


class Makers:
    """Releases, made once each."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._folder, self._bundle = folder, bundle
        self.agent = folder / "edgeseg-agent"
        write_agent(self.agent)
        self.unpacked = folder / "agent"  # the same, compiled: it starts faster
        with zipfile.ZipFile(self.agent) as archive:
            archive.extractall(self.unpacked)
        compileall.compile_dir(self.unpacked, quiet=1)
        self.key = self.new_key("test")

    def new_key(self, name: str) -> Path:
        path = self._folder / name
        keys.make_key(path, name)
        return path

    def release(self, version: int, *, key: Path | None = None, **plan: Any) -> Path:
        tag = "-".join(str(value) for value in (version, key and key.name, *plan.items()) if value)
        out = self._folder / f"{abs(hash(tag)):x}.release"
        if not out.exists():
            fields = {"name": "tiny", "created": SIGNED_AT, "needs": {}, "bundle": self._bundle, **plan}
            write_release(Plan(version=version, **fields), key or self.key, out)
        return out


@pytest.fixture(scope="session")
def makers(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[[Path], Path]) -> Makers:
    """Keys and releases."""
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed (apt-get install openssh-client)")
    folder = tmp_path_factory.mktemp("makers")
    return Makers(folder, make_tiny_bundle(folder / "tiny"))


@pytest.fixture
def bench(makers: Makers) -> Iterator[Bench]:
    """A device with nothing on it; in memory if possible, where syncing costs nothing."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Bench(Path(folder), makers)


@pytest.fixture(scope="module")
def devices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devices]:
    """Booted devices, off at the module's end; skips where there can be none."""
    reason = why_not_here()
    if reason is not None:
        pytest.skip(reason)
    with Devices(tmp_path_factory.mktemp("devices")) as made:
        yield made
