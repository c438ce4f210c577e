"""Which node makes a value and which nodes read it, in an ONNX graph that is being rewired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

Array = npt.NDArray[Any]

ACTIVATIONS = frozenset({"Relu", "Clip"})


class Wiring:
    """Reads and rewires the graph of `model`, in place. New nodes are put where they belong by `finish`."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.graph: GraphProto = model.graph
        self.constants: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer
        }
        self.nodes: list[NodeProto] = list(self.graph.node)
        self.index()

    def index(self) -> None:
        """Look again at who makes and who reads what, after nodes were changed."""
        self.maker: dict[str, NodeProto] = {}
        self.readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.output:
                self.maker[name] = node
            for name in node.input:
                self.readers[name].append(node)

    @property
    def convolutions(self) -> list[NodeProto]:
        return [node for node in self.nodes if node.op_type == "Conv"]

    def activated(self, node: NodeProto) -> str:
        """Return the value that `node` ends in: its activation's output where nothing else reads its own."""
        output: str = node.output[0]
        readers = self.readers[output]
        if len(readers) == 1 and readers[0].op_type in ACTIVATIONS and readers[0].input[0] == output:
            return str(readers[0].output[0])
        return output

    def is_frame(self, value: str) -> bool:
        """Whether `value` is the frame, normalised: no convolution stands before it."""
        waiting, seen = [value], set[str]()
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is not None and node.name not in seen:
                if node.op_type == "Conv":
                    return False
                seen.add(node.name)
                waiting.extend(node.input)
        return bool(seen)

    def add_constant(self, name: str, values: Array) -> str:
        """Store `values` under `name`, once. Returns the name."""
        self.constants.setdefault(name, values)
        return name

    def add_node(self, op: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output of its own name, once. Returns that name."""
        if name not in self.maker:
            node = helper.make_node(op, list(inputs), [name], name=name, **attributes)
            self.nodes.append(node)
            self.maker[name] = node
        return name

    def reread(self, value: str, replacement: str, nodes: Iterable[NodeProto]) -> None:
        """Let `nodes` read `replacement` where they read `value`."""
        for node in nodes:
            node.input[:] = [replacement if name == value else name for name in node.input]

    def finish(self) -> ModelProto:
        """Write the nodes in an order in which each follows what it reads, and the constants that are read."""
        order: list[NodeProto] = []
        done: set[str] = set()
        makers = {name: node for node in self.nodes for name in node.output}

        def put(node: NodeProto) -> None:
            waiting = [node]
            while waiting:
                top = waiting[-1]
                missing = [makers[n] for n in top.input if n in makers and makers[n].name not in done]
                if missing:
                    waiting.extend(reversed(missing))
                    continue
                waiting.pop()
                if top.name not in done:
                    done.add(top.name)
                    order.append(top)

        for output in self.graph.output:
            put(makers[output.name])
        read = {name for node in order for name in node.input}
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(order)
        self.graph.initializer.extend(
            numpy_helper.from_array(np.array(values, order="C"), name)
            for name, values in self.constants.items()
            if name in read
        )
        return self.model
