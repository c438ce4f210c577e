"""Every name that edgeseg uses of TensorRT and of cuda-python is there in the real bindings of each version."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.device import prepare

import edgeseg.runtime

# Class -> what is used of it. Where a name is looked up with getattr, the versions that have it stand in OPTIONAL.
USED = {
    "Builder": {"create_network", "create_builder_config", "build_serialized_network"},
    "OnnxParser": {"parse_from_file", "num_errors", "get_error"},
    "ParserError": {"desc"},
    "IBuilderConfig": {
        *("set_memory_pool_limit", "set_flag", "progress_monitor"),
        *("create_timing_cache", "set_timing_cache", "get_timing_cache"),
    },
    "ITimingCache": {"serialize"},
    "IProgressMonitor": {"phase_start", "step_complete", "phase_finish"},
    "ILogger": {"log", "INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"},
    "MemoryPoolType": {"WORKSPACE"},
    "Runtime": {"deserialize_cuda_engine"},
    "ICudaEngine": {
        *("num_io_tensors", "get_tensor_name", "get_tensor_mode", "get_tensor_dtype", "get_tensor_shape"),
        "create_execution_context",
    },
    "IExecutionContext": {"set_tensor_address", "execute_async_v3", "profiler"},
    "TensorIOMode": {"INPUT", "OUTPUT"},
    "DataType": {"UINT8"},
    "NetworkDefinitionCreationFlag": {"STRONGLY_TYPED"},
    "BuilderFlag": set(),
}
RTX_ONLY = {"num_compute_capabilities", "set_compute_capability", "ComputeCapability"}
OPTIONAL = {
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): {"10.3", "10.13", "10.16"},
    ("BuilderFlag", "FP16"): {"10.3", "10.13", "10.16"},
    ("BuilderFlag", "INT8"): {"10.3", "10.13", "10.16"},
}
# Signatures as pybind11 writes them first in a docstring: the arguments that we give, in order.
CALLS = {
    ("IExecutionContext", "set_tensor_address"): ("name: str", "memory: "),
    ("IExecutionContext", "execute_async_v3"): ("stream_handle: ",),
    ("OnnxParser", "parse_from_file"): ("model: str",),
    ("Runtime", "deserialize_cuda_engine"): ("serialized_engine: ",),
    ("Builder", "create_network"): ("flags: ",),
    ("Builder", "build_serialized_network"): ("network: ", "config: "),
    ("IBuilderConfig", "set_memory_pool_limit"): ("pool: ", "pool_size: "),
    ("IBuilderConfig", "create_timing_cache"): ("serialized_timing_cache: ",),
    ("IBuilderConfig", "set_timing_cache"): ("cache: ", "ignore_mismatch: bool"),
}

_LOOK = """
import json, sys, warnings
warnings.simplefilter("ignore")
import tensorrt_bindings as trt
names = {name: dir(getattr(trt, name)) for name in json.loads(sys.argv[1]) if hasattr(trt, name)}
calls = {f"{owner}.{name}": getattr(getattr(trt, owner), name).__doc__ for owner, name in json.loads(sys.argv[2])}
flags = {
    name: int(getattr(trt.NetworkDefinitionCreationFlag, name))
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if hasattr(trt.NetworkDefinitionCreationFlag, name)
}
print(json.dumps({"version": trt.__version__, "names": names, "calls": calls, "flags": flags}))
"""


@pytest.mark.parametrize("version", prepare.BINDINGS)
def test_the_real_bindings_have_what_is_used(version: str) -> None:
    folder = prepare.bindings_folder(version)
    if not folder.is_dir():
        pytest.skip(f"no bindings of {version}: python tests/runtime/device/prepare.py bindings")
    environment = {**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder / "lib")}
    command = [sys.executable, "-c", _LOOK, json.dumps(list(USED)), json.dumps(list(CALLS))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["version"].startswith(version)
    missing = {
        f"{owner}.{name}" for owner, names in USED.items() for name in names - set(found["names"].get(owner, ()))
    }
    assert missing == set()
    for (owner, name), versions in OPTIONAL.items():
        assert (name in found["names"][owner]) == (version in versions), (owner, name)
    for (owner, name), arguments in CALLS.items():
        signature = found["calls"][f"{owner}.{name}"].partition("->")[0]
        places = [signature.find(argument) for argument in arguments]
        assert -1 not in places and places == sorted(places), signature
    expected = {"STRONGLY_TYPED": 0} if version.startswith("11") else {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1}
    assert found["flags"] == expected


def _names_in_source() -> set[str]:
    """Every attribute and quoted name in the sources that speak to TensorRT."""
    root = Path(edgeseg.runtime.__file__).parent
    found: set[str] = set()
    for path in (root / "backends/tensorrt.py", *sorted((root / "engine").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.FunctionDef):
                found.add(node.name)
    return found


def test_the_table_names_nothing_that_is_not_used() -> None:
    listed = set().union(*USED.values()) | RTX_ONLY | {name for _, name in OPTIONAL}
    assert listed - _names_in_source() == set()


def _looked_up_on_trt() -> set[str]:
    root = Path(edgeseg.runtime.__file__).parent
    found = set()
    for path in (root / "backends/tensorrt.py", *sorted((root / "engine").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                owner = ast.unparse(node.value)
                if owner in ("trt", "self._trt"):
                    found.add(node.attr)
                elif owner.startswith(("trt.", "self._trt.")):
                    found.add(f"{owner.rpartition('.')[2]}.{node.attr}")
    return found


def test_the_table_names_everything_that_is_looked_up() -> None:
    listed = set(USED) | RTX_ONLY | {f"{owner}.{name}" for owner, names in USED.items() for name in names}
    listed |= {f"{owner}.{name}" for owner, name in OPTIONAL} | {"__name__", "__version__"}
    listed |= {f"{name}.__version__" for name in ("trt",)}
    assert _looked_up_on_trt() - listed == set()


_CUDA = Path(edgeseg.runtime.__file__).parent / "backends" / "cuda"
CUDA_PYTHON = {
    "CUresult": {"CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY"},
    "CUevent_flags": {"CU_EVENT_BLOCKING_SYNC", "CU_EVENT_DISABLE_TIMING"},
    "CUstreamCaptureMode": {"CU_STREAM_CAPTURE_MODE_THREAD_LOCAL"},
    "CUdevice_attribute": {
        f"CU_DEVICE_ATTRIBUTE_{name}" for name in ("COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "INTEGRATED")
    },
}
_LOOK_AT_CUDA = """
import inspect, json, sys
from cuda.bindings import driver
calls, names = map(json.loads, sys.argv[1:])
print(json.dumps({
    "calls": {name: len(inspect.signature(getattr(driver, name)).parameters) for name in calls},
    "names": {name: dir(getattr(driver, name)) for name in names},
    "flag": hasattr(driver, "CU_MEMHOSTALLOC_DEVICEMAP"),
}))
"""


def _driver_calls() -> dict[str, int]:
    """Each function of the driver's that is called by name -> how many arguments it is given."""
    found = {}
    for path in sorted(_CUDA.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("call", "_call"):
                function, *arguments = node.args
                if isinstance(function, ast.Constant):
                    found[str(function.value)] = len(arguments)
    return found


@pytest.mark.parametrize("cuda", prepare.CUDA_PYTHON)
def test_the_real_cuda_python_has_what_is_used(cuda: str) -> None:
    folder = prepare.cuda_python_folder(cuda)
    if not folder.is_dir():
        pytest.skip(f"no cuda-python for CUDA {cuda}: python tests/runtime/device/prepare.py bindings")
    calls = _driver_calls()
    assert len(calls) > 20 and "cuGraphInstantiate" in calls
    command = [sys.executable, "-c", _LOOK_AT_CUDA, json.dumps(list(calls)), json.dumps(list(CUDA_PYTHON))]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["calls"] == calls
    assert {name: wanted - set(found["names"][name]) for name, wanted in CUDA_PYTHON.items()} == {
        name: set() for name in CUDA_PYTHON
    }
    assert found["flag"]
