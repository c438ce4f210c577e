"""An ONNX file read into a `Graph`, however hostile the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import ModelProto

from edgeseg.export.check.flatten import MAX_NODES, Flattener
from edgeseg.export.check.functions import inline_functions
from edgeseg.export.check.graph import Graph
from edgeseg.export.check.skeleton import infer_types, take_constants
from edgeseg.export.check.wire import MAX_FILE_BYTES, refuse_bombs
from edgeseg.runtime.errors import EdgesegError


def read_graph(path: Path) -> Graph:
    """Read the ONNX file at `path`.

    At most `MAX_FILE_BYTES` are read, and the memory needed stays below three times the file and 512 MiB, whatever
    the file says. Raises `EdgesegError`, one line, on anything that is not an ONNX model of such a size: truncated,
    larger, nested or recursive without end, circular, with constants that are not what they claim or lie elsewhere.
    """
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise EdgesegError(f"{path.name} has {size} bytes", expected=f"at most {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise EdgesegError(f"cannot read {path}: {error.strerror}", fix="name an ONNX file or a bundle") from None
    try:
        return _parse(data, path.parent)
    except EdgesegError as error:
        raise EdgesegError(f"{path.name}: {error.found}", expected=error.expected, fix=error.fix) from None


def _parse(data: bytes, folder: Path) -> Graph:
    refuse_bombs(data)
    try:
        model = ModelProto.FromString(data)
    except DecodeError:
        raise EdgesegError("not an ONNX model", fix="export or copy the file again") from None
    del data
    _refuse_broken_text(model)
    versions = [item.version for item in model.opset_import if item.domain in ("", "ai.onnx")]
    if not model.graph.node or len(versions) != 1:
        raise EdgesegError("not an ONNX model", expected="one graph with nodes and one default operator set")
    model = inline_functions(model, MAX_NODES)
    take_constants(model.graph, folder)
    infer_types(model)
    graph = Graph(opset=versions[0])
    Flattener(graph, folder).lay(model.graph, "", {})
    graph.inputs = [item.name for item in model.graph.input if item.name not in graph.constants]
    graph.outputs = [item.name for item in model.graph.output]
    _refuse_circles(graph)
    return graph


def _refuse_broken_text(message: Message) -> None:
    """Raise `EdgesegError` if a string is not UTF-8: protobuf hands such a one over as bytes."""
    for field, value in message.ListFields():
        values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        if field.type == FieldDescriptor.TYPE_STRING and not all(isinstance(text, str) for text in values):
            raise EdgesegError(f"not an ONNX model: {field.name} is not UTF-8", fix="export or copy the file again")
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in values:
                _refuse_broken_text(child)


def _refuse_circles(graph: Graph) -> None:
    """Raise `EdgesegError` if a node waits for its own output: every walk over the graph may then rely on an end."""
    waiting = {id(node): sum(name in graph.makers for name in node.inputs) for node in graph.nodes}
    ready = [node for node in graph.nodes if not waiting[id(node)]]
    done = 0
    while ready:
        node = ready.pop()
        done += 1
        for name in node.outputs:
            for user in graph.readers.get(name, ()) if name else ():
                waiting[id(user)] -= 1
                if not waiting[id(user)]:
                    ready.append(user)
    if done < len(graph.nodes):
        stuck = next(node.name for node in graph.nodes if waiting[id(node)] > 0)
        raise EdgesegError(f"node {stuck!r} waits for its own output", expected="a graph without circles")
