from __future__ import annotations

import getpass
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.runtime.environment import environment

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes asimdhp asimddp\nCPU part\t: 0xd42\n\nprocessor\t: 1\n",
    "proc/meminfo": "MemTotal:        7802236 kB\nMemFree:         123 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1510400\n",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": "# modes\n< POWER_MODEL ID=0 NAME=15W >\nCPU 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
}


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    for name, text in ORIN.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_jetson_is_described_by_model_instructions_clocks_and_power_mode(orin: Path) -> None:
    found = environment(orin)
    assert found["device"] == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found["instruction_set"] == ["asimd", "asimdhp", "asimddp"]
    assert found["clocks"] == {"governor": "schedutil", "max_mhz": 1510}
    assert found["power_mode"] == "MAXN_SUPER"
    assert found["memory_mib"] == 7619
    assert found["system"] == "Ubuntu 22.04.5 LTS"


@pytest.mark.parametrize(("status", "mode"), [("pmode:0000 fmode:quiet", "15W"), ("pmode:0007", "7")])
def test_power_mode_is_named_or_else_numbered(orin: Path, status: str, mode: str) -> None:
    (orin / "var/lib/nvpmodel/status").write_text(status)
    assert environment(orin)["power_mode"] == mode


def test_pc_is_described_by_its_processor_and_the_flags_that_matter_to_int8(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\nflags\t\t: fpu avx2 rtm avx512_vnni amx_int8\n"
    )
    found = environment(tmp_path)
    assert found["device"] == "Some CPU @ 3.00GHz"
    assert found["instruction_set"] == ["avx2", "avx512_vnni", "amx_int8"]


def test_what_cannot_be_read_is_absent(tmp_path: Path) -> None:
    found = environment(tmp_path)
    assert not {"device", "instruction_set", "memory_mib", "clocks", "power_mode", "system"} & set(found)
    assert found["cores"] >= 1
    assert None not in found.values()


def test_this_machine_is_described_without_naming_it_or_its_user() -> None:
    text = json.dumps(environment(), allow_nan=False)
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
    assert str(Path.home()) not in text
    assert set(environment()["packages"]) >= {"edgeseg", "numpy", "opencv"}


def test_versions_are_told_without_importing_the_packages() -> None:
    code = (
        "import sys; from edgeseg.runtime.environment import environment; environment();"
        "print({'numpy', 'cv2', 'torch', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
