"""Power mode and clocks, with stand-ins for NVIDIA's tools that answer as those do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.deploy.conftest import Bench
from tests.deploy.devices import write_power_tools


def power(bench: Bench, tools: Path) -> subprocess.CompletedProcess[str]:
    return bench.run("power", env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"})


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    write_power_tools(tmp_path, state=tmp_path)
    return tmp_path


def test_mode_and_clocks_are_set_and_the_mode_only_once(bench: Bench, tools: Path) -> None:
    bench.set(power_mode=2, max_clocks=True)
    for _ in range(2):
        assert power(bench, tools).stdout == "power mode 2, clocks at their highest\n"
    assert (tools / "calls").read_text("utf-8").split("\n") == ["nvpmodel -m 2", "jetson_clocks", "jetson_clocks", ""]


def test_what_another_program_changed_is_set_again(bench: Bench, tools: Path) -> None:
    bench.set(power_mode=2)
    power(bench, tools)
    (tools / "mode").write_text("0", "utf-8")
    power(bench, tools)
    assert (tools / "mode").read_text("utf-8") == "2"


def test_nothing_is_set_unless_the_settings_say_so(bench: Bench, tools: Path) -> None:
    assert power(bench, tools).stdout == "nothing to set\n"
    assert not (tools / "calls").exists()


def test_device_without_the_tools_has_nothing_to_set(bench: Bench) -> None:
    bench.set(power_mode=2, max_clocks=True)
    assert bench.run("power").stdout == "nothing to set\n"


@pytest.mark.parametrize(
    ("mode", "match"), [(7, "nvpmodel keeps mode 0; expected 7; fix: reboot"), (9, "status 1: no")]
)
def test_mode_that_the_tool_refuses_is_one_line(bench: Bench, tools: Path, mode: int, match: str) -> None:
    bench.set(power_mode=mode)
    done = power(bench, tools)
    assert done.returncode == 1 and match in done.stderr and done.stderr.count("\n") == 1, done.stderr
