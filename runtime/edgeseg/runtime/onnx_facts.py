"""What a bundle's graph says of itself, read without the `onnx` package.

A device has no `onnx`, and an engine loads a hostile or broken graph only to crash or to give masks that mean
something else. So the few facts that the contract speaks of are read here from the protobuf wire format
(https://protobuf.dev/programming-guides/encoding/, field numbers from onnx.proto3), bounded in every direction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgeseg.runtime.errors import BundleError

MAX_MODEL_BYTES = 1 << 30
_MAX_FIELDS = 1 << 20
_MAX_DEPTH = 8

_ELEMENT_TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 16: "bfloat16",
}  # fmt: skip

_Fields = dict[int, list["int | memoryview"]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """Name, element type and shape of a graph's input or output. A dimension that is not a number stands as text."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFacts:
    """What the contract needs to know of a graph."""

    opset: int
    """Version of the default operator set."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    class_count: int | None
    """Size of the axis that the first output's ArgMax runs over; None where the graph does not tell."""


def read_facts(path: Path) -> GraphFacts:
    """Read the facts of the ONNX file at `path`.

    Raises `BundleError` if it is not an ONNX model, or keeps weights in another file.
    """
    size = path.stat().st_size
    if size > MAX_MODEL_BYTES:
        raise BundleError(f"{path.name} has {size} bytes", expected=f"at most {MAX_MODEL_BYTES}")
    try:
        return parse_facts(path.read_bytes())
    except BundleError as error:
        raise BundleError(f"{path.name}: {error.found}", expected=error.expected, fix="export it again") from None


def parse_facts(data: bytes) -> GraphFacts:
    """Read the facts of a serialised ONNX model. Raises `BundleError` on anything else, however it is malformed."""
    model = _message(memoryview(data))
    opsets = [_message(_bytes(item)) for item in model[8]]
    versions = [_integer(opset, 2) for opset in opsets if _text(opset, 1) in ("", "ai.onnx")]
    graph_data = _one(model, 7)
    if len(versions) != 1 or not isinstance(graph_data, memoryview):
        raise BundleError("not an ONNX model", expected="one graph and one default operator set")
    graph = _message(graph_data)
    _refuse_external_data(graph, depth=0)
    outputs = _tensors(graph[12])
    return GraphFacts(
        opset=versions[0],
        inputs=_tensors(graph[11]),
        outputs=outputs,
        class_count=_class_count(graph, outputs[0].name) if outputs else None,
    )


def _class_count(graph: _Fields, output: str) -> int | None:
    """Follow the first inputs up from `output` to an ArgMax; return the size of the axis that it reduces."""
    producers: dict[str, _Fields] = {}
    for item in graph[1]:
        node = _message(_bytes(item))
        producers.update({_decode(name): node for name in node[2]})
    name = output
    for _ in range(len(graph[1])):
        maker = producers.get(name)
        if maker is None or not maker[1]:
            return None
        name = _decode(maker[1][0])
        if _text(maker, 4) != "ArgMax":
            continue
        shapes = {tensor.name: tensor.shape for tensor in _tensors(graph[13] + graph[11])}
        shape, axis = shapes.get(name, ()), _axis(maker)
        size = shape[axis] if -len(shape) <= axis < len(shape) else None
        return size if isinstance(size, int) else None
    return None


def _axis(node: _Fields) -> int:
    for item in node[5]:
        attribute = _message(_bytes(item))
        if _text(attribute, 1) == "axis":
            value = _integer(attribute, 3)
            return value - (1 << 64) if value >> 63 else value
    return 0


def _refuse_external_data(graph: _Fields, depth: int) -> None:
    """Weights in another file are outside the manifest's hashes, and their path may lead anywhere."""
    if depth > _MAX_DEPTH:
        raise BundleError(f"graphs nested deeper than {_MAX_DEPTH}", expected="an ONNX model")
    tensors, subgraphs = list(graph[5]), []
    for item in graph[15]:
        sparse = _message(_bytes(item))
        tensors += sparse[1] + sparse[2]
    for item in graph[1]:
        for attribute_item in _message(_bytes(item))[5]:
            attribute = _message(_bytes(attribute_item))
            tensors += attribute[5] + attribute[10]
            subgraphs += attribute[6] + attribute[11]
    for item in tensors:
        tensor = _message(_bytes(item))
        if tensor[13] or any(tensor[14]):
            raise BundleError(
                f"weights of {_text(tensor, 8)!r} lie in another file", expected="weights inside the graph"
            )
    for item in subgraphs:
        _refuse_external_data(_message(_bytes(item)), depth + 1)


def _tensors(items: list[int | memoryview]) -> tuple[Tensor, ...]:
    return tuple(_tensor(_message(_bytes(item))) for item in items)


def _tensor(value_info: _Fields) -> Tensor:
    type_proto = _submessage(value_info, 2)
    tensor_type = _submessage(type_proto, 1)
    dims: list[int | str] = []
    for item in _submessage(tensor_type, 2)[1]:
        dim = _message(_bytes(item))
        dims.append(_integer(dim, 1) if dim[1] else _text(dim, 2) or "?")
    code = _integer(tensor_type, 1)
    return Tensor(name=_text(value_info, 1), dtype=_ELEMENT_TYPES.get(code, f"type {code}"), shape=tuple(dims))


# The wire format.


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for count in range(10):
        if at + count >= len(data):
            break
        byte = data[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value & ((1 << 64) - 1), at + count + 1
    raise BundleError("not an ONNX model: a number is cut short")


def _pairs(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise BundleError(f"not an ONNX model: wire type {wire}")
        if size > len(data) - at:
            raise BundleError("not an ONNX model: a field is cut short")
        yield number, data[at : at + size]
        at += size


def _message(data: memoryview) -> _Fields:
    fields: _Fields = defaultdict(list)
    for count, (number, value) in enumerate(_pairs(data)):
        if count >= _MAX_FIELDS:
            raise BundleError(f"not an ONNX model: more than {_MAX_FIELDS} fields in one message")
        fields[number].append(value)
    return fields


def _one(fields: _Fields, number: int) -> int | memoryview | None:
    values = fields[number]
    # Protobuf would merge repeats; no writer makes them, and another reader might take another one.
    if len(values) > 1:
        raise BundleError(f"not an ONNX model: field {number} appears {len(values)} times")
    return values[0] if values else None


def _bytes(value: int | memoryview) -> memoryview:
    if not isinstance(value, memoryview):
        raise BundleError("not an ONNX model: a number where a message belongs")
    return value


def _submessage(fields: _Fields, number: int) -> _Fields:
    value = _one(fields, number)
    return _message(_bytes(value) if value is not None else memoryview(b""))


def _integer(fields: _Fields, number: int) -> int:
    value = _one(fields, number)
    if isinstance(value, memoryview):
        raise BundleError("not an ONNX model: a message where a number belongs")
    return value or 0


def _decode(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode(errors="replace")


def _text(fields: _Fields, number: int) -> str:
    value = _one(fields, number)
    return "" if value is None else _decode(value)
