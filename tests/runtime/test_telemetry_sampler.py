from __future__ import annotations

import json
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from edgeseg.runtime.cli import main
from edgeseg.runtime.telemetry import Reading, Sampler
from edgeseg.runtime.telemetry.nvml import Nvml
from edgeseg.runtime.telemetry.reading import Source
from edgeseg.runtime.telemetry.tegrastats import Tegrastats
from edgeseg.runtime.telemetry.throttle import ThrottleProbe

LINE = "RAM 2639/7620MB (lfb 9x4MB) GR3D_FREQ 10%@1300 tj@45.968C VDD_IN 5263mW/5163mW VDD_SOC 1794mW/1794mW"


def plant(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_kernels_alerts_and_over_current_counts_tell_of_throttling(tmp_path: Path) -> None:
    plant(
        tmp_path,
        {
            "sys/class/thermal/cooling_device0/type": "gpu-throttle-alert\n",
            "sys/class/thermal/cooling_device0/cur_state": "0\n",
            "sys/class/thermal/cooling_device1/type": "pwm-fan\n",
            "sys/class/thermal/cooling_device1/cur_state": "3\n",
            "sys/class/hwmon/hwmon4/name": "soctherm_oc\n",
            "sys/class/hwmon/hwmon4/oc1_event_cnt": "7\n",
        },
    )
    probe = ThrottleProbe(tmp_path)
    assert probe.reasons() == ()
    plant(
        tmp_path,
        {
            "sys/class/thermal/cooling_device0/cur_state": "1\n",
            "sys/class/hwmon/hwmon4/oc1_event_cnt": "8\n",
        },
    )
    assert probe.reasons() == ("gpu-throttle", "over-current")
    assert probe.reasons() == ("gpu-throttle",)


def test_device_without_these_places_does_not_tell(tmp_path: Path) -> None:
    assert ThrottleProbe(tmp_path).reasons() is None


def fake_tegrastats(folder: Path, body: str) -> str:
    script = folder / "tegrastats"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def wait_for_the_thread() -> None:
    for thread in threading.enumerate():
        if thread.name == "telemetry":
            thread.join(10)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "telemetry"]


class Watched:
    """A source that tells when its first reading was taken in."""

    def __init__(self, source: Source) -> None:
        self._source, self.name, self.taken = source, source.name, threading.Event()

    def readings(self) -> Iterator[Reading]:
        for reading in self._source.readings():
            yield reading
            self.taken.set()

    def close(self) -> None:
        self._source.close()

    def release(self) -> None:
        self._source.release()


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM;"])
def test_sampler_reads_whole_lines_and_leaves_no_process(tmp_path: Path, stubborn: str) -> None:
    cut_line = "printf 'VDD_IN 99'; while :; do sleep 60; done"
    command = fake_tegrastats(tmp_path, f"{stubborn} echo $$ > {tmp_path}/pid; echo '{LINE}'; {cut_line}")
    source = Watched(Tegrastats(command))
    with Sampler(lambda: source) as sampler:
        assert source.taken.wait(10)
        assert sampler.latest is not None
        assert sampler.latest.power_w == 5.263
        pid = int((tmp_path / "pid").read_text())
        assert is_running(pid)
        assert os.getpgid(pid) != os.getpgid(0)  # so that Ctrl-C at the terminal does not reach it
    assert not is_running(pid)
    assert sampler.document(frames=3)["telemetry"]["readings"] == 1
    assert sampler.problem is None


def test_tegrastats_that_ends_by_itself_is_told_and_harms_nothing(tmp_path: Path) -> None:
    command = fake_tegrastats(tmp_path, f"echo '{LINE}'")
    sampler = Sampler(lambda: Tegrastats(command))
    sampler.start()
    wait_for_the_thread()
    sampler.stop()
    sampler.stop()
    assert sampler.problem == "tegrastats ended by itself"
    assert sampler.document()["telemetry"]["readings"] == 1


def test_device_without_telemetry_gives_no_figures_and_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Sampler() as sampler:
        pass
    assert sampler.document(frames=9) == {}
    assert sampler.problem is not None
    assert "nvidia-ml-py" in sampler.problem


class Broken:
    name = "broken"

    def readings(self) -> Iterator[Reading]:
        yield Reading(gpu_mhz=1)
        raise RuntimeError("driver lost")

    def close(self) -> None:
        pass

    def release(self) -> None:
        pass


def test_driver_that_fails_does_not_take_the_run_with_it() -> None:
    with Sampler(Broken) as sampler:
        wait_for_the_thread()
    assert sampler.problem == "broken: driver lost"
    assert sampler.document()["telemetry"]["gpu_mhz"] == {"min": 1, "max": 1}


class NVMLError(Exception):
    pass


class FakeNvml(SimpleNamespace):
    """nvidia-ml-py of a GPU that does not measure its power."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU, NVML_CLOCK_SM = 0, 1

    def nvmlInit(self) -> None:  # noqa: N802
        self.opened = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened = False

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"gpu{index}"

    def nvmlDeviceGetPowerUsage(self, gpu: str) -> int:  # noqa: N802
        raise NVMLError("Not Supported")

    def nvmlDeviceGetTemperature(self, gpu: str, sensor: int) -> int:  # noqa: N802
        return 61

    def nvmlDeviceGetUtilizationRates(self, gpu: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=0, memory=0)

    def nvmlDeviceGetMemoryInfo(self, gpu: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=3 << 20, total=9 << 20)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu: str) -> int:  # noqa: N802
        return 0x1 | 0x20


def test_nvml_gives_what_the_gpu_measures_and_leaves_out_the_rest() -> None:
    library = FakeNvml()
    source = Watched(Nvml(library, interval_s=0.01))
    with Sampler(lambda: source) as sampler:
        assert source.taken.wait(10)
        assert library.opened
    assert sampler.latest == Reading(
        temperatures_c={"gpu": 61.0},
        gpu_percent=0.0,
        memory_used_mib=3.0,
        memory_total_mib=9.0,
        throttle=("thermal",),
    )
    assert not library.opened


@pytest.mark.parametrize("command", ["run", "demo"])
def test_run_and_demo_tell_what_the_device_drew(
    command: str, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_tegrastats(tmp_path, f"while :; do echo '{LINE}'; sleep 0.02; done")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    source = "synthetic://street?size=96x64&fps=25&frames=8"
    bundle = ["--bundle", str(tiny_bundle), "--out", str(tmp_path)] if command == "demo" else [str(tiny_bundle)]
    document = tmp_path / "document.json"
    done = CliRunner().invoke(main, [command, *bundle, "--source", source, "--json", str(document)])
    assert done.exit_code == 0, done.output
    assert "power 5.3 W mean, 5.3 W at most (VDD_IN)" in done.output and "J a frame" in done.output
    telemetry = json.loads(document.read_text())["telemetry"]
    assert telemetry["power_w"] == {"mean": 5.26, "max": 5.26, "rail": "VDD_IN"}
    assert telemetry["joules_per_frame"] > 0 and "time_to_throttle_s" not in telemetry


def test_the_first_reading_can_be_waited_for_and_none_is_not_waited_for(tmp_path: Path) -> None:
    with Sampler(lambda: Tegrastats(fake_tegrastats(tmp_path, f"echo '{LINE}'; sleep 60"))) as sampler:
        reading = sampler.wait(10)
        assert reading is not None and reading.power_w == 5.263
    with Sampler(lambda: Tegrastats(fake_tegrastats(tmp_path, "exit 3"))) as silent:
        assert silent.wait(60) is None
