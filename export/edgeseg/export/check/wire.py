"""A first look at an ONNX file, before protobuf allocates anything for it.

Two bytes on the wire can become a hundred in memory, so a file is measured by its fields, not by its size alone.
Encoding: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx.proto3.
"""

from __future__ import annotations

from edgeseg.runtime.errors import EdgesegError

MAX_FILE_BYTES = 1 << 30
MAX_FIELDS = 1 << 21
MAX_GRAPH_DEPTH = 16

# Which fields of a message are messages that may hold many fields: type -> {field number: type of the message}.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "leaf", 14: "leaf", 25: "function"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "leaf", 15: "sparse", 16: "leaf"},
    "function": {7: "node", 9: "leaf", 11: "attribute", 12: "value", 14: "leaf"},
    "node": {5: "attribute", 9: "leaf"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "leaf", 16: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "tensor type"},
    "tensor type": {2: "shape"},
    "shape": {1: "leaf"},
    "leaf": {},
}


def refuse_bombs(data: bytes) -> None:
    """Raise `EdgesegError` unless `data` is a well-formed message of at most `MAX_FIELDS` fields, graphs nested
    at most `MAX_GRAPH_DEPTH` deep. Needs memory for the messages that are open, not for their contents.
    """
    view = memoryview(data)
    fields = 0
    waiting = [("model", 0, len(view), 0)]
    while waiting:
        kind, at, end, depth = waiting.pop()
        if depth > MAX_GRAPH_DEPTH:
            raise _not_onnx(f"graphs nested deeper than {MAX_GRAPH_DEPTH}")
        children = _CHILDREN[kind]
        while at < end:
            fields += 1
            if fields > MAX_FIELDS:
                raise _not_onnx(f"more than {MAX_FIELDS} fields")
            number, start, at = _field(view, at, end)
            child = children.get(number)
            if child is not None and start >= 0:
                waiting.append((child, start, at, depth + (child == "graph")))


def _field(view: memoryview, at: int, end: int) -> tuple[int, int, int]:
    """Return (field number, where its bytes start or -1 for a number, where the next field starts)."""
    key, at = _varint(view, at, end)
    wire, start = key & 7, -1
    if wire == 0:
        _, at = _varint(view, at, end)
    elif wire == 2:
        size, start = _varint(view, at, end)
        at = start + size
    elif wire in (1, 5):
        at += 8 if wire == 1 else 4
    else:
        raise _not_onnx(f"wire type {wire}")
    if at > end:
        raise _not_onnx("a field is cut short")
    return key >> 3, start, at


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _not_onnx("a number is cut short")


def _not_onnx(why: str) -> EdgesegError:
    return EdgesegError(f"not an ONNX model: {why}", fix="export or copy the file again")
