"""Model-local functions, written out where they are called, within bounds."""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, ModelProto, NodeProto, inliner

from edgeseg.runtime.errors import EdgesegError

_Key = tuple[str, str]


def inline_functions(model: ModelProto, max_nodes: int) -> ModelProto:
    """Return `model` without model-local functions.

    Raises `EdgesegError` if one calls itself, or if the outcome would have more than `max_nodes` nodes: ten
    functions that call each other ten times are already ten thousand million nodes.
    """
    if not model.functions:
        return model
    functions: dict[_Key, FunctionProto] = {(item.domain, item.name): item for item in model.functions}
    sizes: dict[_Key, int] = {}
    for key in functions:
        _size(key, functions, sizes, set())
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in _all_nodes(list(model.graph.node)))
    if total > max_nodes:
        raise EdgesegError(f"{total} nodes once its functions are written out", expected=f"at most {max_nodes}")
    return inliner.inline_local_functions(model)


def _size(key: _Key, functions: dict[_Key, FunctionProto], sizes: dict[_Key, int], open_calls: set[_Key]) -> int:
    if key in sizes:
        return sizes[key]
    if key in open_calls or len(open_calls) > 64:
        raise EdgesegError(f"function {key[1]!r} calls itself, or the calls are nested too deep")
    open_calls.add(key)
    total = 0
    for node in _all_nodes(list(functions[key].node)):
        called = (node.domain, node.op_type)
        total += _size(called, functions, sizes, open_calls) if called in functions else 1
    open_calls.remove(key)
    sizes[key] = total
    return total


def _all_nodes(nodes: list[NodeProto]) -> list[NodeProto]:
    found, waiting = [], nodes
    while waiting:
        node = waiting.pop()
        found.append(node)
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
            for graph in graphs:
                waiting.extend(graph.node)
    return found
