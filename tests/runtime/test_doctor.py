from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseg.runtime.commands import doctor as command
from edgeseg.runtime.commands.doctor import doctor
from edgeseg.runtime.doctor import examine, is_ready
from edgeseg.runtime.doctor.machine import Finding, Machine, Outcome

BUILD = """
  GUI:                           {gui}
    FFMPEG:                      {ffmpeg}
      avcodec:                   YES (58.134.100)
    GStreamer:                   {gstreamer}
    v4l/v4l2:                    YES (linux/videodev2.h)
"""


def build(*, gui: str = "GTK3", ffmpeg: str = "YES", gstreamer: str = "YES (1.20.3)") -> str:
    return BUILD.format(gui=gui, ffmpeg=ffmpeg, gstreamer=gstreamer)


def missing(name: str) -> Outcome:
    return Outcome(status=1, err=f"Traceback ...\nModuleNotFoundError: No module named '{name}'\n")


SYSTEM = "/usr/lib/python3/dist-packages"
PIP = "/home/me/.local/lib/python3.10/site-packages"


class FakeMachine(Machine):
    """A machine whose modules, commands, devices and disk are given. All is well where nothing else is said."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.environ = {"DISPLAY": ":0", "HOME": str(root)}
        self.python = (3, 10, 12)
        self.venv = None
        self.time_s = 1_800_000_000.0
        self.modules: dict[str, Outcome | Mapping[str, Any]] = {
            "numpy": {"version": "1.26.4", "file": f"{SYSTEM}/numpy/__init__.py"},
            "cv2": {"version": "4.8.0", "file": f"{SYSTEM}/cv2.so", "build": build()},
            "onnxruntime": {"version": "1.23.2", "providers": ["CPUExecutionProvider"]},
            "tensorrt": {"version": "10.3.0"},
            "pycuda": {"version": "2024.1"},
            "cuda": missing("cuda"),
            "pynvml": missing("pynvml"),
        }
        self.commands = {"ffmpeg", "ssh-keygen", "tegrastats"}
        self.closed: set[str] = set()
        self.disk_mib = 50_000

    def run_python(self, code: str) -> Outcome:
        name = code.split("import json, ")[1].split("\n")[0].split(",")[0].split(".")[0]
        answer = self.modules[name]
        if isinstance(answer, Outcome):
            return answer
        return Outcome(status=0, out=f"a banner\n{json.dumps(answer)}\n")

    def which(self, command: str) -> str | None:
        return f"/usr/bin/{command}" if command in self.commands else None

    def may_use(self, device: Path) -> bool:
        return device.name not in self.closed

    def free_disk_mib(self, folder: Path) -> int:
        return self.disk_mib

    def plant(self, **files: str) -> None:
        for name, text in files.items():
            path = self.root / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@pytest.fixture
def pc(tmp_path: Path) -> FakeMachine:
    machine = FakeMachine(tmp_path)
    machine.plant(proc__meminfo="MemAvailable:   8000000 kB\n")
    machine.commands.remove("tegrastats")
    return machine


@pytest.fixture
def jetson(tmp_path: Path) -> FakeMachine:
    machine = FakeMachine(tmp_path)
    machine.plant(
        proc__meminfo="MemTotal: 7802236 kB\nMemAvailable:   5000000 kB\n",
        etc__nv_tegra_release="# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic",
        dev__video0="",
        sys__class__video4linux__video0__name="vi-output, imx219 9-0010\n",
    )
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/model").write_text("NVIDIA Jetson Orin Nano Developer Kit\0")
    libraries = tmp_path / "usr/lib/aarch64-linux-gnu"
    libraries.mkdir(parents=True)
    (libraries / "libnvinfer.so.10.3.0").touch()
    for module in ("numpy", "cv2"):
        (tmp_path / "usr/lib/python3/dist-packages" / module).mkdir(parents=True)
    return machine


def of(machine: Machine, check: str, level: str | None = None) -> Finding:
    """The one finding of a check."""
    (found,) = [finding for finding in examine(machine) if finding.check == check and level in (None, finding.level)]
    return found


def bad(machine: Machine) -> list[str]:
    return [finding.check for finding in examine(machine) if finding.level in ("warning", "error")]


def test_sound_jetson_has_nothing_to_mend(jetson: FakeMachine) -> None:
    findings = examine(jetson)
    assert bad(jetson) == []
    assert is_ready(findings)
    assert of(jetson, "JetPack").found == "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6 (Jetson Linux 36.4.3)"
    assert of(jetson, "cameras").found == "/dev/video0 (vi-output, imx219 9-0010)"
    assert of(jetson, "TensorRT").found == "10.3.0"


def test_sound_pc_without_gpu_has_nothing_to_mend(pc: FakeMachine) -> None:
    pc.modules["cv2"] = {"version": "5.0.0", "file": f"{PIP}/cv2/cv2.so", "build": build(gui="NONE", gstreamer="NO")}
    assert bad(pc) == []
    assert of(pc, "TensorRT").level == "note"
    assert of(pc, "OpenCV: GStreamer").level == "note"
    assert "JetPack" not in [finding.check for finding in examine(pc)]


def test_every_finding_that_is_bad_has_a_fix(jetson: FakeMachine) -> None:
    jetson.modules = dict.fromkeys(jetson.modules, Outcome(status=-11))
    jetson.commands, jetson.disk_mib, jetson.time_s, jetson.closed = set(), 1, 0.0, {"video0"}
    jetson.python = (3, 8, 10)
    jetson.plant(proc__meminfo="MemAvailable: 1000 kB\n")
    findings = examine(jetson)
    assert not is_ready(findings)
    assert all(finding.fix for finding in findings if finding.level in ("warning", "error"))


def test_old_python_is_an_error(pc: FakeMachine) -> None:
    pc.python = (3, 8, 10)
    assert of(pc, "Python").level == "error"


@pytest.mark.parametrize(
    "words",
    [
        "A module that was compiled using NumPy 1.x cannot be run in NumPy 2.2.6\nImportError: it failed",
        "ImportError: numpy.core.multiarray failed to import",
        "AttributeError: _ARRAY_API not found\nImportError: something else",
        "RuntimeError: module compiled against ABI version 0x1000009 but this version of numpy is 0x2000000",
    ],
)
def test_opencv_that_was_built_for_another_numpy_is_told_apart(pc: FakeMachine, words: str) -> None:
    pc.modules["numpy"] = {"version": "2.2.6", "file": f"{PIP}/numpy/__init__.py"}
    pc.modules["cv2"] = Outcome(status=1, err=words)
    finding = of(pc, "OpenCV")
    assert (finding.level, finding.fix) == ("error", "pip install 'numpy<2'")
    assert finding.found.startswith("built for another numpy than 2.2.6")


def test_crash_of_an_import_is_a_finding(pc: FakeMachine) -> None:
    pc.modules["cv2"] = Outcome(status=-11)
    assert of(pc, "OpenCV").found == "importing it crashed (signal 11)"
    assert of(pc, "OpenCV").level == "error"


def test_real_module_that_crashes_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no such plug')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    machine = Machine()
    assert machine.opencv.problem == "importing it crashed (signal 9)"
    assert machine.module("broken", version="1").problem == "RuntimeError: no such plug"
    assert machine.module("edgeseg_has_no_such_module", version="1").problem == ""
    assert machine.module("json", version="json.__name__").facts == {"version": "json"}


@pytest.mark.parametrize(
    ("device", "fix"), [("pc", "pip install opencv"), ("jetson", "apt-get install python3-opencv")]
)
def test_missing_opencv_comes_from_pip_on_a_pc_and_from_apt_on_a_jetson(
    request: pytest.FixtureRequest, device: str, fix: str
) -> None:
    machine: FakeMachine = request.getfixturevalue(device)
    machine.modules["cv2"] = missing("cv2")
    finding = of(machine, "OpenCV")
    assert (finding.level, finding.found) == ("error", "not installed")
    assert fix in finding.fix


def test_missing_numpy_is_told_once_for_itself(pc: FakeMachine) -> None:
    pc.modules["numpy"] = missing("numpy")
    assert of(pc, "numpy").level == "error"


def test_opencv_without_libgl_names_both_ways_out(pc: FakeMachine) -> None:
    pc.modules["cv2"] = Outcome(status=1, err="ImportError: libGL.so.1: cannot open shared object file")
    assert "libgl1" in of(pc, "OpenCV").fix


def test_opencv_without_gstreamer_matters_on_a_jetson(jetson: FakeMachine) -> None:
    jetson.modules["cv2"] = {"version": "4.8.0", "file": f"{SYSTEM}/cv2.so", "build": build(gstreamer="NO")}
    finding = of(jetson, "OpenCV: GStreamer")
    assert finding.level == "warning"
    assert "CSI" in finding.found
    assert is_ready(examine(jetson))


def test_opencv_without_ffmpeg_is_a_warning(pc: FakeMachine) -> None:
    pc.modules["cv2"] = {"version": "4.8.0", "file": f"{PIP}/cv2.so", "build": build(ffmpeg="NO")}
    assert of(pc, "OpenCV: FFmpeg").level == "warning"


def test_copies_from_pip_that_shadow_the_jetsons_are_named(jetson: FakeMachine) -> None:
    jetson.modules["cv2"] = {"version": "4.12.0", "file": f"{PIP}/cv2/cv2.so", "build": build()}
    jetson.modules["numpy"] = {"version": "1.26.4", "file": f"{PIP}/numpy/__init__.py"}
    assert bad(jetson) == ["OpenCV from pip", "numpy from pip"]
    assert of(jetson, "OpenCV from pip").fix.startswith("pip uninstall opencv-python")


@pytest.mark.parametrize(("setting", "told"), [("true", False), ("false", True)])
def test_virtual_environment_must_see_the_jetsons_packages(jetson: FakeMachine, setting: str, told: bool) -> None:
    jetson.plant(venv__pyvenv_cfg="")
    (jetson.root / "venv/pyvenv.cfg").write_text(f"home = /usr/bin\ninclude-system-site-packages = {setting}\n")
    jetson.venv = jetson.root / "venv"
    assert ("virtual environment" in bad(jetson)) == told


def test_camera_without_permission_is_named_with_the_group(jetson: FakeMachine) -> None:
    jetson.plant(dev__video10="", dev__video2="")
    jetson.closed = {"video10", "video2"}
    finding = of(jetson, "cameras", "warning")
    assert finding.found == "no permission to use /dev/video2, /dev/video10"
    assert "usermod -aG video" in finding.fix
    assert of(jetson, "cameras", "ok").found.startswith("/dev/video0")


def test_machine_without_camera_can_still_run(pc: FakeMachine) -> None:
    assert of(pc, "cameras").level == "note"


def test_missing_onnxruntime_is_an_error(pc: FakeMachine) -> None:
    pc.modules["onnxruntime"] = missing("onnxruntime")
    assert of(pc, "ONNX Runtime").level == "error"
    assert not is_ready(examine(pc))


def test_missing_tensorrt_on_a_jetson_is_a_warning_that_tells_libraries_from_bindings(jetson: FakeMachine) -> None:
    jetson.modules["tensorrt"] = missing("tensorrt")
    assert of(jetson, "TensorRT").found == "its Python bindings are not installed"
    (jetson.root / "usr/lib/aarch64-linux-gnu/libnvinfer.so.10.3.0").unlink()
    assert of(jetson, "TensorRT").found == "not installed"
    assert is_ready(examine(jetson))


def test_bindings_of_another_version_than_the_library_are_told(jetson: FakeMachine) -> None:
    jetson.modules["tensorrt"] = {"version": "10.13.3.9"}
    assert of(jetson, "TensorRT").level == "warning"
    assert "10.13.3.9, but the system's library is 10.3.0" in of(jetson, "TensorRT").found


def test_tensorrt_before_10_3_is_too_old(jetson: FakeMachine) -> None:
    libraries = jetson.root / "usr/lib/aarch64-linux-gnu"
    (libraries / "libnvinfer.so.10.3.0").rename(libraries / "libnvinfer.so.8.6.2")
    jetson.modules["tensorrt"] = {"version": "8.6.2"}
    assert of(jetson, "TensorRT").found == "8.6.2 is too old"


def test_either_of_the_cuda_bindings_will_do(jetson: FakeMachine) -> None:
    jetson.modules["pycuda"] = Outcome(status=1, err="ImportError: libcurand.so.10: cannot open")
    jetson.modules["cuda"] = {"version": "12.9.0"}
    assert of(jetson, "CUDA bindings").found == "cuda-python 12.9.0"
    jetson.modules["cuda"] = missing("cuda")
    assert "libcurand" in of(jetson, "CUDA bindings").found


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("# R35 (release), REVISION: 4.1,", "warning"),
        ("# R36 (release), REVISION: 3.0,", "warning"),
        ("# R36 (release), REVISION: 5.0,", "ok"),
        ("# R39 (release), REVISION: 2.0,", "ok"),
        ("something new", "note"),
    ],
)
def test_jetpack_is_known_by_its_release(jetson: FakeMachine, line: str, level: str) -> None:
    jetson.plant(etc__nv_tegra_release=line)
    assert of(jetson, "JetPack").level == level


@pytest.mark.parametrize(("kib", "level"), [(100_000, "error"), (600_000, "warning"), (4_000_000, "ok")])
def test_free_memory_is_judged(pc: FakeMachine, kib: int, level: str) -> None:
    pc.plant(proc__meminfo=f"MemAvailable: {kib} kB\n")
    assert of(pc, "memory").level == level


@pytest.mark.parametrize(("mib", "level"), [(10, "error"), (500, "warning"), (5000, "ok")])
def test_free_disk_is_judged(pc: FakeMachine, mib: int, level: str) -> None:
    pc.disk_mib = mib
    assert of(pc, "disk").level == level


def test_clock_of_a_device_without_battery_is_noticed(pc: FakeMachine) -> None:
    pc.time_s = 300.0
    finding = of(pc, "clock")
    assert finding.level == "warning"
    assert finding.found.startswith("1970-01-01 00:05 UTC is not now")


def test_clock_that_waits_for_the_network_is_noted(pc: FakeMachine) -> None:
    (pc.root / "run/systemd/timesync").mkdir(parents=True)
    assert of(pc, "clock").level == "note"


@pytest.mark.parametrize(
    ("environ", "gui", "level"),
    [({}, "GTK3", "note"), ({"DISPLAY": ":0"}, "NONE", "note"), ({"DISPLAY": ":0"}, "QT5", "ok")],
)
def test_window_needs_a_display_and_an_opencv_that_draws(
    pc: FakeMachine, environ: dict[str, str], gui: str, level: str
) -> None:
    pc.environ = {**environ, "HOME": str(pc.root)}
    pc.modules["cv2"] = {"version": "5.0.0", "file": f"{PIP}/cv2.so", "build": build(gui=gui)}
    assert of(pc, "display").level == level


def test_missing_commands_are_noted_with_their_use(pc: FakeMachine) -> None:
    pc.commands.clear()
    assert "edgeseg sign" in of(pc, "ssh-keygen").found
    assert of(pc, "ffmpeg").fix == "sudo apt-get install ffmpeg"


def test_gpu_of_a_pc_is_found_by_its_driver_and_measured_through_nvml(pc: FakeMachine) -> None:
    pc.plant(proc__driver__nvidia__version="NVRM version: NVIDIA UNIX x86_64 Kernel Module 580.1\n")
    assert of(pc, "TensorRT").level == "ok"
    assert of(pc, "telemetry").fix == "pip install nvidia-ml-py"
    pc.modules["pynvml"] = {"version": "580.1"}
    assert of(pc, "telemetry").found == "NVML, driver 580.1"


@pytest.mark.parametrize(("python", "status"), [((3, 10, 0), 0), ((3, 8, 0), 1)])
def test_command_shows_each_fix_and_exits_by_whether_run_can_work(
    pc: FakeMachine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, python: tuple[int, int, int], status: int
) -> None:
    pc.python = python
    monkeypatch.setattr(command, "examine", lambda: examine(pc))
    result = CliRunner().invoke(doctor, ["--json", str(tmp_path / "doctor.json")])
    assert result.exit_code == status, result.output
    document = json.loads((tmp_path / "doctor.json").read_text())
    assert document["schema"] == "edgeseg/doctor/1"
    assert document["ready"] == (status == 0)
    assert {"check": "numpy", "level": "ok", "found": "1.26.4"} in document["findings"]
    assert "fix: plug one in" in result.output
    assert ("edgeseg run can work here" in result.output) == (status == 0)
    assert ("cannot work here before this is mended: Python" in result.output) == (status == 1)


def test_findings_do_not_tell_whose_home_it_is(pc: FakeMachine) -> None:
    pc.environ = {"HOME": "/home/me"}
    pc.modules["onnxruntime"] = Outcome(status=1, err=f"ImportError: {PIP}/onnxruntime.so: invalid ELF header")
    assert of(pc, "ONNX Runtime").found.startswith("ImportError: ~/.local")


def test_this_machine_is_examined_without_a_fault() -> None:
    assert {finding.check for finding in examine()} >= {"Python", "numpy", "OpenCV", "ONNX Runtime", "disk", "clock"}
