"""What the GPU tells of itself goes into a run's document, and what it does not tell is absent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseg.benchmarks.document import Moment
from edgeseg.benchmarks.gpu import read_gpu
from edgeseg.benchmarks.surroundings import read_moment


class NVMLError(Exception):
    pass


class FakeNvml:
    """nvidia-ml-py with one GPU, which knows everything but its power."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    def __init__(self, *, driver: bool = True) -> None:
        self.driver, self.opened = driver, 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def __getattr__(self, name: str) -> Any:
        answers: dict[str, Any] = {
            "nvmlDeviceGetHandleByIndex": "gpu",
            "nvmlDeviceGetName": b"NVIDIA A2",
            "nvmlSystemGetDriverVersion": "550.54",
            "nvmlDeviceGetMaxClockInfo": 1770,
            "nvmlDeviceGetTemperature": 41,
            "nvmlDeviceGetEnforcedPowerLimit": 60_000,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=512 << 20),
        }
        if name == "nvmlDeviceGetClockInfo":
            return lambda _gpu, kind: {1: 1200, 2: 6251}[kind]
        if name == "nvmlDeviceGetPowerUsage":
            return self._refuse
        if name not in answers:
            raise AttributeError(name)
        return lambda *_: answers[name]

    def _refuse(self, *_: Any) -> None:
        raise NVMLError("Not Supported")


def test_pc_s_gpu_tells_by_nvml_and_what_it_refuses_is_absent(tmp_path: Path) -> None:
    nvml = FakeNvml()
    found = read_gpu(tmp_path, nvml)
    assert found is not None
    assert found.model_dump(exclude_none=True) == {
        "name": "NVIDIA A2",
        "driver": "550.54",
        "mhz": 1200,
        "memory_mhz": 6251,
        "max_mhz": 1770,
        "temperature_c": 41,
        "power_limit_w": 60,
        "memory_used_mib": 512,
    }
    assert nvml.opened == 0  # given back


def test_machine_without_a_driver_has_no_gpu(tmp_path: Path) -> None:
    assert read_gpu(tmp_path, FakeNvml(driver=False)) is None


def test_machine_without_nvml_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert read_gpu(tmp_path) is None


def test_jetson_tells_by_its_files(tmp_path: Path) -> None:
    files = {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit\0",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    moment = read_moment(tmp_path)
    assert moment.gpu is not None
    assert moment.gpu.model_dump(exclude_none=True) == {
        "name": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit",
        "driver": "L4T 36.4.3",
        "mhz": 306,
        "max_mhz": 1020,
    }
    assert Moment.model_validate_json(moment.model_dump_json()) == moment
