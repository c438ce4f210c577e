"""The small protobuf reader against `onnx` itself, and against bytes that mean it harm."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgeseg.runtime.errors import BundleError
from edgeseg.runtime.onnx_facts import GraphFacts, Tensor, parse_facts, read_facts


def make_model(
    axis: int = 1, shape: tuple[Any, ...] = (1, 7, 8, 9), *, attributes: dict[str, Any] | None = None
) -> onnx.ModelProto:
    """logits → ArgMax → mask."""
    attributes = {"axis": axis, "keepdims": 0} if attributes is None else attributes
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["logits"], ["positive"]),
            helper.make_node("ArgMax", ["positive"], ["index"], **attributes),
            helper.make_node("Cast", ["index"], ["mask"], to=TensorProto.UINT8),
        ],
        "graph",
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("mask", TensorProto.UINT8, None)],
    )
    opsets = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def as_onnx_sees(model: onnx.ModelProto) -> tuple[list[Tensor], list[Tensor]]:
    def tensors(values: Any) -> list[Tensor]:
        return [
            Tensor(
                name=value.name,
                dtype=str(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
                shape=tuple(
                    dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"
                    for dim in value.type.tensor_type.shape.dim
                ),
            )
            for value in values
        ]

    return tensors(model.graph.input), tensors(model.graph.output)


@pytest.mark.parametrize("shape", [(1, 7, 8, 9), (1, 7, "height", 9), (1, 7, 8, None), (1, 7)])
def test_facts_are_those_that_onnx_reads(shape: tuple[Any, ...]) -> None:
    model = make_model(shape=shape)
    facts = parse_facts(model.SerializeToString())
    assert (list(facts.inputs), list(facts.outputs)) == as_onnx_sees(model)
    assert facts.opset == 17
    assert facts.class_count == 7


@pytest.mark.parametrize(
    "dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.INT64, TensorProto.BOOL]
)
def test_element_types_have_numpys_names(dtype: int) -> None:
    value = helper.make_tensor_value_info("x", dtype, [2])
    model = helper.make_model(helper.make_graph([], "graph", [value], [value]))
    assert list(parse_facts(model.SerializeToString()).inputs) == as_onnx_sees(model)[0]


@pytest.mark.parametrize(
    ("attributes", "class_count"),
    [({"axis": 1}, 7), ({"axis": -1}, 9), ({"axis": -3}, 7), ({"axis": 3}, 9), ({}, 1), ({"axis": 4}, None)],
)
def test_class_count_is_the_size_of_the_argmax_axis(attributes: dict[str, int], class_count: int | None) -> None:
    model = make_model()
    del model.graph.node[1].attribute[:]
    model.graph.node[1].attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    assert parse_facts(model.SerializeToString()).class_count == class_count


def test_class_count_is_unknown_where_the_shape_is_not_noted() -> None:
    model = make_model()
    del model.graph.value_info[:]
    assert parse_facts(model.SerializeToString()).class_count is None


def test_class_count_is_unknown_in_a_graph_that_goes_in_circles() -> None:
    model = make_model()
    model.graph.node[0].input[0] = "mask"
    model.graph.node[1].op_type = "Identity"
    assert parse_facts(model.SerializeToString()).class_count is None


def external(tensor: TensorProto) -> TensorProto:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    return tensor


def weights() -> TensorProto:
    return onnx.numpy_helper.from_array(np.zeros(3, np.float32), "weights")


def test_refuses_weights_in_another_file() -> None:
    model = make_model()
    model.graph.initializer.append(external(weights()))
    with pytest.raises(BundleError, match="'weights' lie in another file"):
        parse_facts(model.SerializeToString())


def test_refuses_weights_in_another_file_inside_a_branch() -> None:
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=external(weights()))], "branch", [], [])
    model = make_model()
    model.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    with pytest.raises(BundleError, match="lie in another file"):
        parse_facts(model.SerializeToString())


def test_refuses_graphs_nested_without_end() -> None:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("Loop", [], ["y"], body=graph)], "nest", [], [])
    with pytest.raises(BundleError, match="nested deeper"):
        parse_facts(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected one graph"),
        (b"hello", "cut short|wire type"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "cut short"),
        (b"\xff" * 11, "a number is cut short"),
        (b"\x3a\x00\x3a\x00", "field 7 appears 2 times"),
        (b"\x38\x01", "expected one graph"),
        (b"\x3b", "wire type 3"),
    ],
)
def test_refuses_what_is_no_model(data: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        parse_facts(data)


def test_a_file_is_named_in_the_refusal(tmp_path: Path) -> None:
    path = tmp_path / "model.fp32.onnx"
    path.write_bytes(b"hello")
    with pytest.raises(BundleError, match=r"^model\.fp32\.onnx: not an ONNX model"):
        read_facts(path)


MODEL = make_model().SerializeToString()


@given(st.binary(max_size=200))
def test_any_bytes_give_facts_or_a_bundle_error(data: bytes) -> None:
    only_facts_or_bundle_error(data)


@given(st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_altered_models_give_facts_or_a_bundle_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(MODEL)
    for place, value in changes:
        data[place] = value
    only_facts_or_bundle_error(bytes(data))


@given(st.integers(0, len(MODEL)), st.binary(max_size=12))
def test_cut_and_lengthened_models_give_facts_or_a_bundle_error(place: int, tail: bytes) -> None:
    only_facts_or_bundle_error(MODEL[:place] + tail)
    only_facts_or_bundle_error(MODEL[:place] + tail + MODEL[place:])


def only_facts_or_bundle_error(data: bytes) -> None:
    try:
        assert isinstance(parse_facts(data), GraphFacts)
    except BundleError as error:
        assert "\n" not in str(error)
