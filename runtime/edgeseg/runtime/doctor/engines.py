"""What computes: ONNX Runtime, TensorRT, CUDA's bindings; and what measures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgeseg.runtime.doctor.machine import Finding, Machine, Module

_LIBRARY = re.compile(r"libnvinfer\.so\.(\d+)\.(\d+)\.(\d+)")
_SUPPORTED = (10, 3)
_TENSORRT_BACKEND = Path(__file__).parents[1] / "backends" / "tensorrt.py"


def check_engines(machine: Machine) -> Iterator[Finding]:
    """`run` needs one engine; with a GPU it wants TensorRT."""
    tensorrt = list(_check_tensorrt(machine)) if machine.has_gpu else []
    works_on_gpu = bool(tensorrt) and all(finding.level == "ok" for finding in tensorrt)
    yield _check_onnxruntime(machine, needed=not (works_on_gpu and _TENSORRT_BACKEND.is_file()))
    if machine.has_gpu:
        yield from tensorrt
    else:
        yield Finding(check="TensorRT", level="note", found="not looked for: no NVIDIA GPU with a driver here")


def _check_onnxruntime(machine: Machine, *, needed: bool) -> Finding:
    name, fix = "ONNX Runtime", "pip install 'edgeseg[jetson]'" if machine.is_jetson else "pip install onnxruntime"
    module = machine.module(
        "onnxruntime", version="onnxruntime.__version__", providers="onnxruntime.get_available_providers()"
    )
    if module.facts:
        providers = [provider.removesuffix("ExecutionProvider") for provider in module.facts["providers"]]
        local = ", ".join(provider for provider in providers if provider != "Azure")  # that one is not this machine
        return Finding(check=name, level="ok", found=f"{module.facts['version']} ({local})")
    return Finding(check=name, level="error" if needed else "note", found=module.problem or "not installed", fix=fix)


def _check_tensorrt(machine: Machine) -> Iterator[Finding]:
    apt = "sudo apt-get install python3-libnvinfer" if machine.is_jetson else "pip install 'edgeseg[tensorrt]'"
    library = max(_libraries(machine), default=None)
    module = machine.module("tensorrt", version="tensorrt.__version__")
    if not module.facts:
        found = module.problem or ("its Python bindings are not installed" if library else "not installed")
        yield Finding(check="TensorRT", level="warning", found=found, fix=apt)
    else:
        yield _compare(module.facts["version"], library, apt)
    yield _check_cuda(machine)


def _libraries(machine: Machine) -> Iterator[tuple[int, int, int]]:
    for folder in ("usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
        for path in machine.root.glob(f"{folder}/libnvinfer.so.*"):
            found = _LIBRARY.fullmatch(path.name)
            if found:
                yield int(found[1]), int(found[2]), int(found[3])


def _compare(bindings: str, library: tuple[int, int, int] | None, apt: str) -> Finding:
    numbers = [int(number) for number in re.findall(r"\d+", bindings)[:3]]
    if library is not None and numbers != list(library):
        shown = ".".join(map(str, library))
        found = f"bindings {bindings}, but the system's library is {shown}: engines and errors will not fit"
        return Finding(check="TensorRT", level="warning", found=found, fix=f"pip uninstall tensorrt; {apt}")
    if tuple(numbers[:2]) < _SUPPORTED:
        found = f"{bindings} is too old"
        return Finding(check="TensorRT", level="warning", found=found, fix="10.3 or later: JetPack 6.1 or later")
    return Finding(check="TensorRT", level="ok", found=bindings)


def _check_cuda(machine: Machine) -> Finding:
    """Either of pycuda and cuda-python will do."""
    tried: list[str] = []
    for name, module in _cuda_modules(machine):
        if module.facts:
            return Finding(check="CUDA bindings", level="ok", found=f"{name} {module.facts['version']}")
        tried.append(f"{name}: {module.problem or 'not installed'}")
    return Finding(
        check="CUDA bindings", level="warning", found="; ".join(tried), fix="pip install cuda-python (or pycuda)"
    )


def _cuda_modules(machine: Machine) -> Iterator[tuple[str, Module]]:
    yield "pycuda", machine.module("pycuda, pycuda.driver", version="pycuda.VERSION_TEXT")
    yield "cuda-python", machine.module("cuda.bindings.driver", version="cuda.bindings.__version__")


def check_telemetry(machine: Machine) -> Iterator[Finding]:
    """Tell whether power and temperature will be in a run's figures."""
    if machine.which("tegrastats"):
        yield Finding(check="telemetry", level="ok", found="tegrastats")
    elif machine.is_jetson:
        fix = "sudo apt-get install nvidia-l4t-tools (in a container: mount /usr/bin/tegrastats)"
        yield Finding(check="telemetry", level="note", found="no tegrastats: no power, no temperatures", fix=fix)
    elif machine.has_gpu:
        nvml = machine.module("pynvml", version="pynvml.nvmlInit() or pynvml.nvmlSystemGetDriverVersion()")
        if nvml.facts:
            yield Finding(check="telemetry", level="ok", found=f"NVML, driver {nvml.facts['version']}")
        else:
            found = nvml.problem or "no NVML: no power, no temperatures"
            yield Finding(check="telemetry", level="note", found=found, fix="pip install nvidia-ml-py")
