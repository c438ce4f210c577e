"""Make what the device tests need and no registry has ready: `python tests/runtime/device/prepare.py`.

`pycuda` is the real pycuda, built from its source against CUDA's headers and an empty libcuda (about 100 s).
`bindings` are the real Python bindings of each TensorRT that is supported, which import without their libraries over
three stubs. Both go into `EDGESEG_TEST_TOOLS`, else `~/.cache/edgeseg-test-tools`, and are made once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PYCUDA = "2026.1"
CUDA_PYTHON = {
    "13": ("cuda-bindings==13.5.0", "cuda-pathfinder==1.9.0"),
    "12": ("cuda-bindings==12.9.10", "cuda-pathfinder==1.9.0"),
}
"""CUDA -> cuda-python's bindings for it. The first is the one that the simulator runs."""
BINDINGS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu13-bindings==10.13.3.9",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
_STUBS = {
    "nvinfer": (
        *("createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL", "createInferRefitter_INTERNAL"),
        *("getBuilderPluginRegistry", "getPluginRegistry"),
    ),
    "nvonnxparser": (
        *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
        "getNvOnnxParserVersion",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}


def tools_folder() -> Path:
    """Where all this is kept, for this Python."""
    root = os.environ.get("EDGESEG_TEST_TOOLS")
    base = Path(root) if root else Path("~/.cache/edgeseg-test-tools").expanduser()
    return base / f"python{sys.version_info.major}.{sys.version_info.minor}"


def pycuda_folder() -> Path:
    """A folder for `sys.path` that holds pycuda."""
    return tools_folder() / f"pycuda-{PYCUDA}"


def cuda_python_folder(cuda: str = "13") -> Path:
    """A folder for `sys.path` that holds cuda-python's bindings for a CUDA."""
    return tools_folder() / f"cuda-python-{cuda}"


def bindings_folder(version: str) -> Path:
    """A folder for `sys.path` that holds `tensorrt_bindings`; `lib` in it is for the library path."""
    return tools_folder() / f"bindings-{version}"


def cuda_root() -> Path | None:
    """Where CUDA's headers are, or None."""
    roots = [os.environ.get("CUDA_ROOT", ""), "/usr/local/cuda", *sorted(map(str, Path("/usr/local").glob("cuda-*")))]
    return next((Path(root) for root in roots if root and (Path(root) / "include/cuda.h").is_file()), None)


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments], check=True)


def _stub_library(path: Path, soname: str, functions: tuple[str, ...] = ()) -> None:
    source = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in functions)
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(path), "-x", "c", "-"]
    subprocess.run(command, input=source, text=True, check=True)


def build_pycuda() -> None:
    """Build pycuda into `pycuda_folder`. Raises `SystemExit` where CUDA's headers are missing."""
    if pycuda_folder().is_dir():
        return
    root = cuda_root()
    if root is None:
        sys.exit("no cuda.h below /usr/local/cuda*: install CUDA's headers or set CUDA_ROOT")
    tools_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools_folder()) as name:
        scratch = Path(name)
        target, helpers, stubs = scratch / "made", scratch / "helpers", scratch / "stubs"
        stubs.mkdir()
        _stub_library(stubs / "libcuda.so", "libcuda.so.1")
        _pip("install", "-q", "--target", str(helpers), "setuptools", "wheel", "mako")
        _pip(
            "install",
            "-q",
            "--no-deps",
            "--target",
            str(target),
            "pytools",
            "platformdirs",
            "typing_extensions",
            "siphash24",
        )
        flags = ["--no-binary", "pycuda", "--no-deps", "-d", str(scratch)]
        _pip("download", "-q", *flags, f"pycuda=={PYCUDA}")
        with tarfile.open(next(scratch.glob("pycuda-*.tar.gz"))) as archive:
            archive.extractall(scratch, filter="data")
        source = next(path for path in scratch.glob("pycuda-*") if path.is_dir())
        environment = {**os.environ, "PYTHONPATH": f"{helpers}:{target}"}
        configure = [f"--cuda-root={root}", "--no-cuda-enable-curand", f"--cudadrv-lib-dir={stubs}"]
        subprocess.run([sys.executable, "configure.py", *configure], cwd=source, env=environment, check=True)
        install = ["install", "-q", "--no-build-isolation", "--no-deps", "--target", str(target), "."]
        subprocess.run([sys.executable, "-m", "pip", *install], cwd=source, env=environment, check=True)
        target.replace(pycuda_folder())


def install_bindings() -> None:
    """Install cuda-python's bindings, and each TensorRT's beside stubs of the libraries that they open."""
    for cuda, requirements in CUDA_PYTHON.items():
        if cuda_python_folder(cuda).is_dir():
            continue
        tools_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=tools_folder()) as name:
            _pip("install", "-q", "--no-deps", "--target", f"{name}/made", *requirements)
            (Path(name) / "made").replace(cuda_python_folder(cuda))
    for version, requirement in BINDINGS.items():
        if bindings_folder(version).is_dir():
            continue
        tools_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=tools_folder()) as name:
            target = Path(name) / "made"
            _pip("install", "-q", "--no-deps", "--target", str(target), requirement)
            (target / "lib").mkdir()
            for library, functions in _STUBS.items():
                soname = f"lib{library}.so.{version.partition('.')[0]}"
                _stub_library(target / "lib" / soname, soname, functions)
            target.replace(bindings_folder(version))


if __name__ == "__main__":
    if shutil.which("gcc") is None:
        sys.exit("gcc is missing")
    wanted = sys.argv[1:] or ["pycuda", "bindings"]
    for part in wanted:
        {"pycuda": build_pycuda, "bindings": install_bindings}[part]()
