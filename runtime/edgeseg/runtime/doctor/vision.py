"""numpy, OpenCV, cameras and display."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgeseg.runtime.doctor.machine import Finding, Machine

_ABI = re.compile(
    r"_ARRAY_API not found|multiarray failed to import|compiled (?:using|against) .*NumPy"
    r"|numpy\.\w+ size changed|against A[BP]I version"
)
_GSTREAMER_USE = "CSI cameras and the Jetson's own video decoder"


def check_numpy(machine: Machine) -> Iterator[Finding]:
    if machine.numpy.facts:
        yield Finding(check="numpy", level="ok", found=machine.numpy.facts["version"])
        return
    found = machine.numpy.problem or "not installed"
    fix = "sudo apt-get install python3-numpy" if machine.is_jetson else "pip install --force-reinstall numpy"
    yield Finding(check="numpy", level="error", found=found, fix=fix)


def check_opencv(machine: Machine) -> Iterator[Finding]:
    opencv = machine.opencv
    if not opencv.facts:
        yield _explain_opencv(machine)
        return
    yield Finding(check="OpenCV", level="ok", found=f"{opencv.facts['version']}, {_origin(opencv.facts['file'])}")
    build = opencv.facts["build"]
    for name, key, use in (
        ("OpenCV: FFmpeg", "FFMPEG", "video files and RTSP streams"),
        ("OpenCV: V4L2", "v4l/v4l2", "USB cameras"),
        ("OpenCV: GStreamer", "GStreamer", _GSTREAMER_USE),
    ):
        line = re.search(rf"^\s*{re.escape(key)}:\s+(\S.*?)\s*$", build, re.MULTILINE)
        if line is not None and line[1].startswith("YES"):
            yield Finding(check=name, level="ok", found=line[1])
        elif key == "GStreamer" and not machine.is_jetson:
            yield Finding(check=name, level="note", found=f"not built in; needed only for {use}")
        else:
            yield Finding(check=name, level="warning", found=f"not built in: no {use}", fix=_opencv_fix(machine))


def _opencv_fix(machine: Machine) -> str:
    if machine.is_jetson:
        return "sudo apt-get install python3-opencv, and pip uninstall any opencv-python"
    return "pip install opencv-python-headless"


def _explain_opencv(machine: Machine) -> Finding:
    opencv = machine.opencv
    if not opencv.problem:
        return Finding(check="OpenCV", level="error", found="not installed", fix=_opencv_fix(machine))
    if _ABI.search(opencv.errors):
        version = machine.numpy.facts.get("version", "that is installed")
        found = f"built for another numpy than {version}: {opencv.problem}"
        fix = "pip install 'numpy<2'" if version.startswith("2") else _opencv_fix(machine)
        return Finding(check="OpenCV", level="error", found=found, fix=fix)
    if "libGL" in opencv.problem:
        fix = "sudo apt-get install libgl1, or pip install opencv-python-headless instead"
        return Finding(check="OpenCV", level="error", found=opencv.problem, fix=fix)
    return Finding(check="OpenCV", level="error", found=opencv.problem, fix=_opencv_fix(machine))


def _origin(file: str) -> str:
    return "the system's" if _is_systems(file) else "pip's"


def _is_systems(file: str) -> bool:
    return "dist-packages" in file and not file.startswith("/usr/local/")


def check_shadows(machine: Machine) -> Iterator[Finding]:
    """On a Jetson, tell of copies from pip that hide the system's builds, the only ones made for the device."""
    if not machine.is_jetson:
        return
    for name, folder, module, remedy in (
        ("OpenCV", "cv2*", machine.opencv, "pip uninstall opencv-python opencv-python-headless opencv-contrib-python"),
        ("numpy", "numpy", machine.numpy, "pip uninstall numpy"),
    ):
        theirs = list(machine.root.glob(f"usr/lib/python3*/dist-packages/{folder}"))
        theirs += machine.root.glob(f"usr/lib/python3*/site-packages/{folder}")
        file = module.facts.get("file", "")
        if theirs and file and not _is_systems(file):
            loss = (
                "GStreamer, so no CSI camera" if name == "OpenCV" else "the numpy that the system's cv2 was built for"
            )
            found = f"a copy from pip hides the system's and with it {loss}"
            yield Finding(check=f"{name} from pip", level="warning", found=found, fix=remedy)
    if machine.venv is not None:
        settings = (machine.venv / "pyvenv.cfg").read_text() if (machine.venv / "pyvenv.cfg").is_file() else ""
        if not re.search(r"^include-system-site-packages\s*=\s*true", settings, re.MULTILINE | re.IGNORECASE):
            yield Finding(
                check="virtual environment",
                level="warning",
                found="it does not see the system's packages: no TensorRT and no OpenCV with GStreamer",
                fix="make it again: python3 -m venv --system-site-packages",
            )


def check_cameras(machine: Machine) -> Iterator[Finding]:
    nodes = sorted(machine.root.glob("dev/video*"), key=lambda node: (len(node.name), node.name))
    if not nodes:
        found = "none; files, streams and synthetic: work without"
        fix = "plug one in (in a container: --device /dev/video0)"
        yield Finding(check="cameras", level="note", found=found, fix=fix)
        return
    closed = [node.name for node in nodes if not machine.may_use(node)]
    open_nodes = [node for node in nodes if node.name not in closed]
    if open_nodes:
        yield Finding(check="cameras", level="ok", found=", ".join(_name_camera(machine, node) for node in open_nodes))
    if closed:
        yield Finding(
            check="cameras",
            level="warning",
            found=f"no permission to use {', '.join(f'/dev/{name}' for name in closed)}",
            fix="sudo usermod -aG video $USER, then log in again",
        )


def _name_camera(machine: Machine, node: Path) -> str:
    name = machine.read(f"sys/class/video4linux/{node.name}/name")
    return f"/dev/{node.name} ({name})" if name else f"/dev/{node.name}"


def check_display(machine: Machine) -> Iterator[Finding]:
    """Tell whether `--sink window` can work. Headless is no fault: everything else does."""
    screen = machine.environ.get("WAYLAND_DISPLAY") or machine.environ.get("DISPLAY")
    gui = re.search(r"^\s*GUI:\s+(\S+)", machine.opencv.facts.get("build", ""), re.MULTILINE)
    if not screen:
        yield Finding(check="display", level="note", found="none: no --sink window; video:FILE and images:DIR work")
    elif gui is None or gui[1] == "NONE":
        fix = "" if not machine.opencv.facts else "pip install opencv-python in place of opencv-python-headless"
        yield Finding(check="display", level="note", found="OpenCV cannot open windows: no --sink window", fix=fix)
    else:
        yield Finding(check="display", level="ok", found=f"{screen} ({gui[1]})")
