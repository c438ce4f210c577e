"""Stand-ins for NVIDIA's compiler."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

FAKE_COMPILER = '''
"""Stands in for tensorrt_rtx: refuses graphs that hold "refuse", else logs what an engine's log ends with."""
from pathlib import Path
from types import SimpleNamespace

LOG = Path(__file__).with_name("log.txt")


class ILogger:
    ERROR, INTERNAL_ERROR, VERBOSE = "ERROR", "INTERNAL_ERROR", "VERBOSE"


class Builder:
    def __init__(self, logger): self.logger = logger
    def create_network(self, flags): return SimpleNamespace(num_inputs=0)
    def create_builder_config(self): return SimpleNamespace(set_compute_capability=lambda target, index: None)
    def build_serialized_network(self, network, config):
        for line in LOG.read_text().splitlines():
            self.logger.log(ILogger.VERBOSE, line)
        return b"plan"


class OnnxParser:
    num_errors = 1
    def __init__(self, network, logger): pass
    def parse_from_file(self, path): return b"refuse" not in Path(path).read_bytes()
    def get_error(self, index):
        desc = "no\\n[place in the library]"
        return SimpleNamespace(node_name=lambda: "conv", node_operator=lambda: "Conv", desc=lambda: desc)


ProfilingVerbosity = SimpleNamespace(DETAILED=0)
ComputeCapability = SimpleNamespace(SM75=0, SM80=1, SM86=2, SM89=3, SM120=4, SM121=5)
'''

LOG = """\
Total Activation Memory: 8241152 bytes
Total Weights Memory: 29568 bytes
Layers:
Name: __myl_Quant_myl0_0, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1,32,16,16], Strides: [8192,256,16,1], \
StrideOrder: [3,2,1,0], Datatype: Float, Format: (Linear) Row major linear format }], Constants: [], Outputs: [ { \
Name: q, Dimensions: [1,32,16,16], Strides: [8192,1,512,32], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) \
Channel major format }], TacticName: __myl_Quant_0x38, StreamId: 0, Metadata: [ONNX Layer: x_Q]
Name: first_myl0_1, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [1,32,16,16], Strides: [8192,1,512,32], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w, Dimensions: \
[32,32,3,3], Strides: [288,1,96,32], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }, { \
Name: b, Dimensions: [1,32,1,1], Strides: [32,1,32,32], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) \
Channel major format }], Outputs: [ { Name: y, Dimensions: [1,32,16,16], Strides: [8192,1,512,32], StrideOrder: \
[3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], TacticName: stub, StreamId: 0, Metadata: \
[ONNX Layer: first]\x1f[ONNX Layer: w_DQ]
Name: order_myl0_2, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 1, Metadata:\x20
Name: __myl_Silu_myl0_3, LayerType: runtime_fusion, Inputs: [ { Name: y, Dimensions: [1,32,16,16], Strides: \
[8192,1,512,32], StrideOrder: [3,0,2,1], Datatype: Half, Format: (NHWC) Channel major format }], Constants: [], \
Outputs: [ { Name: z, Dimensions: [1,32,16,16], Strides: [8192,1,512,32], StrideOrder: [3,0,2,1], Datatype: Float, \
Format: (NHWC) Channel major format }], TacticName: , StreamId: 0, Metadata: [ONNX Layer: second | then (then_branch) \
| if_1 (If)][ONNX Layer: silu]
Name: __myl_Mul_myl0_4, LayerType: kgen, Inputs: [ { Name: q, Dimensions: [1,32,16,16], Strides: [8192,1,512,32], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: z, Dimensions: [1,32,16,16], \
Strides: [8192,1,512,32], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], Constants: \
[], Outputs: [ { Name: out, Dimensions: [1,32,16,16], Strides: [8192,256,16,1], StrideOrder: [3,2,1,0], Datatype: \
Float, Format: (Linear) Row major linear format }], TacticName: m, StreamId: 0, Metadata: [ONNX Layer: second]

I/O Tensors:
 Name: x, IOMode: Input, DataType: Float, Dimensions: [1,32,16,16]
"""


@pytest.fixture
def compiler_log() -> str:
    """The end of a log, in the form of TensorRT-RTX 1.7.1: `first` in INT8, `second` fused and in FP16."""
    return LOG


@pytest.fixture
def install_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a module of the given source as tensorrt_rtx, for this process and those that it starts."""

    def install(source: str) -> None:
        package = tmp_path / "site" / "tensorrt_rtx"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(source)
        (package / "log.txt").write_text(LOG)
        monkeypatch.syspath_prepend(str(package.parent))
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")]))
        importlib.invalidate_caches()

    return install


@pytest.fixture
def fake_compiler(install_compiler: Callable[[str], None]) -> None:
    """A stand-in for NVIDIA's compiler that takes what does not hold the word "refuse"."""
    install_compiler(FAKE_COMPILER)


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has no tensorrt-rtx, an ARM board for one."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorrt_rtx" else found(name))
