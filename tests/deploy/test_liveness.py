"""`edgeseg run` as the release that the agent's service starts and watches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.deploy.conftest import Bench

from edgeseg.deploy.agent.health import Health, read_health

WAIT_S = 60


def _serve_until(bench: Bench, bundle: Path, source: str, reached: Callable[[Health], bool]) -> Health:
    """Let the agent's service run `edgeseg run` until its report satisfies `reached`, then end it."""
    bench.install(1)
    bench.config.health.unlink()
    command = (sys.executable, "-m", "edgeseg.runtime", "run", str(bundle), "--source", source, "--backend", "ort")
    bench.set(serve=command)
    service = subprocess.Popen(bench.command("serve"), env=dict(os.environ))
    try:
        deadline_s = time.monotonic() + WAIT_S
        while time.monotonic() < deadline_s and service.poll() is None:
            health = read_health(bench.config.health)
            if health is not None and reached(health):
                service.send_signal(signal.SIGTERM)
                assert service.wait(WAIT_S) == 0, "SIGTERM ends a run well"
                return health
            time.sleep(0.1)
        pytest.fail(f"{service.poll()}, {read_health(bench.config.health)}")
    finally:
        service.kill()
        service.wait()


def test_a_live_run_passes_for_healthy(bench: Bench, tiny_bundle: Path) -> None:
    health = _serve_until(
        bench, tiny_bundle, "synthetic://street?size=96x64&fps=10", lambda health: health.alive and health.frames > 5
    )
    assert (health.flowing, health.present, health.golden) == (True, True, 1.0)
    assert health.frame_age_ms is not None and health.frame_age_ms > 0


def test_a_camera_that_is_away_at_the_start_is_awaited(bench: Bench, tiny_bundle: Path) -> None:
    health = _serve_until(bench, tiny_bundle, "/dev/video-that-is-away", lambda health: health.alive)
    assert (health.flowing, health.present, health.frames) == (False, False, 0)
