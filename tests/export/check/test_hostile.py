from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper
from tests.export.check.sketch import Net, body, done, start

from edgeseg.export.check import wire
from edgeseg.export.check.read import read_graph
from edgeseg.runtime.errors import EdgesegError

_LIMIT_BYTES = 1 << 30


def sound() -> ModelProto:
    net, _ = start()
    return done(net, body(net))


def refuse(data: bytes | ModelProto, folder: Path, match: str) -> None:
    path = folder / "model.onnx"
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    with pytest.raises(EdgesegError, match=match) as caught:
        read_graph(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="cannot read"):
        read_graph(tmp_path / "none.onnx")


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"PK\3\4 a zip", b"\x08\x09"])
def test_other_file_is_refused(data: bytes, tmp_path: Path) -> None:
    refuse(data, tmp_path, "not an ONNX model")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    data = sound().SerializeToString()
    refuse(data[: int(len(data) * share)], tmp_path, "model.onnx")


def test_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, wire.MAX_FILE_BYTES + 1)
    with pytest.raises(EdgesegError, match="at most"):
        read_graph(path)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "sub/../../secret", "", "a\0b"])
def test_external_data_that_escape_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    folder = tmp_path / "model"
    folder.mkdir()
    refuse(_external(location), folder, "outside the model's folder")


def test_external_data_behind_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").symlink_to(tmp_path / "secret")
    refuse(_external("weights"), folder, "outside the model's folder")


def test_external_data_beside_the_model_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(np.full(32, 0.5, np.float32).tobytes())
    path = tmp_path / "model.onnx"
    path.write_bytes(_external("weights").SerializeToString())
    values = read_graph(path).constants["outside"].values
    assert values is not None
    assert values.tolist() == [0.5] * 32


def test_external_data_that_are_cut_short_are_refused(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(100))
    refuse(_external("weights"), tmp_path, "does not hold 128 bytes")


def test_external_data_that_are_missing_are_refused(tmp_path: Path) -> None:
    refuse(_external("weights"), tmp_path, "no file 'weights'")


def _external(location: str) -> ModelProto:
    model = sound()
    tensor = TensorProto(name="outside", data_type=TensorProto.FLOAT, dims=[32], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    return model


@pytest.mark.parametrize("dims", [[1 << 62], [1 << 40, 1 << 40], [-1], [5]])
def test_constant_that_is_not_what_its_shape_promises_is_refused(dims: list[int], tmp_path: Path) -> None:
    model = sound()
    model.graph.initializer.append(TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234"))
    refuse(model, tmp_path, "constant 'huge'")


def test_huge_sizes_that_are_only_computed_cost_nothing(tmp_path: Path) -> None:
    net, x = start()
    huge = net.op("Expand", x, net.constant(np.array([1 << 40, 32, 16, 16], np.int64)))
    huge = net.op("ConstantOfShape", net.constant(np.array([1 << 50], np.int64)))
    onnx.save(done(net, huge), tmp_path / "model.onnx")
    assert _peak_growth_mb(tmp_path / "model.onnx") < 200


def test_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    model = sound()
    model.graph.node[0].name = "plain-name"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString().replace(b"plain-name", b"\x80lain-name"))
    with pytest.raises(EdgesegError, match="name is not UTF-8"):
        read_graph(path)


def test_circle_is_refused(tmp_path: Path) -> None:
    net, _ = start()
    net.nodes.append(helper.make_node("Add", ["x", "b"], ["a"], name="round"))
    net.nodes.append(helper.make_node("Relu", ["a"], ["b"]))
    refuse(done(net, "b"), tmp_path, "waits for its own output")


def test_tensor_that_is_made_twice_is_refused(tmp_path: Path) -> None:
    net, _ = start()
    net.nodes += [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Sigmoid", ["x"], ["a"])]
    refuse(done(net, "a"), tmp_path, "made twice")


def test_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    model = sound()
    inner = helper.make_node("Again", ["x"], ["y"], domain="own")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model.functions.append(helper.make_function("own", "Again", ["x"], ["y"], [inner], opsets))
    refuse(model, tmp_path, "calls itself")


def test_functions_that_multiply_are_refused(tmp_path: Path) -> None:
    model = sound()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    for level in range(12):
        callee, domain = (f"F{level - 1}", "own") if level else ("Relu", "")
        nodes = [helper.make_node(callee, ["x"], [f"y{i}"], domain=domain) for i in range(10)]
        model.functions.append(helper.make_function("own", f"F{level}", ["x"], ["y0"], nodes, opsets))
    model.graph.node.append(helper.make_node("F11", ["x"], ["z"], domain="own"))
    refuse(model, tmp_path, "once its functions are written out")


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [], [])
    for _ in range(wire.MAX_GRAPH_DEPTH + 4):
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=helper.make_graph([], "e", [], []))
        graph = helper.make_graph([node], "g", [], [])
    refuse(helper.make_model(graph), tmp_path, "nested deeper")


def test_many_empty_messages_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    graph = b"\x0a\x00" * (wire.MAX_FIELDS + 1)  # empty nodes of two bytes each
    size = len(graph)
    length = bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x3a" + bytes([*length, size]) + graph)
    assert _peak_growth_mb(path) < 3 * path.stat().st_size / 1e6 + 512


def _peak_growth_mb(path: Path) -> float:
    """Return by how much the peak memory of a process grows while it reads `path`, whether the file is refused or not.

    The process may not have more than 1 GiB more than it began with.
    """
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from edgeseg.export.check.read import read_graph\n"
        "from edgeseg.runtime.errors import EdgesegError\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (size + {_LIMIT_BYTES},) * 2)\n"
        "before = peak()\n"
        "try:\n    read_graph(Path(sys.argv[1]))\n"
        "except EdgesegError:\n    pass\n"
        "print((peak() - before) / 1024)\n"
    )
    assert resource.getpagesize()
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    return float(done.stdout)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), byte=st.integers(0, 255), cut=st.integers(0, 200))
def test_damaged_file_is_read_or_refused_in_one_line(at: int, byte: int, cut: int, tmp_path: Path) -> None:
    net = Net()
    x = net.input([1, 4, 8, 8])
    data = bytearray(done(net, net.op("Relu", net.conv(x, 4, 4))).SerializeToString())
    at %= len(data)
    data[at] = byte
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(data[:at] + data[at + cut :]))
    try:
        read_graph(path)
    except EdgesegError as error:
        assert "\n" not in str(error)
