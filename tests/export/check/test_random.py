"""The rules against NVIDIA's compiler, on networks that nobody thought of."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from tests.export.check.random_nets import build_random

from edgeseg.export.check.compile import Refusal, compile_graph
from edgeseg.export.check.convolutions import CONVOLUTIONS
from edgeseg.export.check.rules import check_file

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="NVIDIA's compiler is not installed: edgeseg[aot]"
)
QUICK, MANY = range(12), range(12, 300)


def disagreements(seed: int, folder: Path) -> list[str]:
    """Return what rules and compiler see differently of network `seed`."""
    path = folder / "model.onnx"
    onnx.save(build_random(seed), path)
    report = check_file(path)
    verdicts = {item.node: item for item in report.convolutions if item.op in CONVOLUTIONS}
    compiled = compile_graph(path, "sm86", tuple(verdicts))
    if isinstance(compiled, Refusal) or report.failed:
        refused = isinstance(compiled, Refusal)
        return [] if refused and report.failed else [f"{compiled if refused else report.findings[0]}"]
    wrong = [name for name in compiled.int8_convolutions if not verdicts[name].int8]
    wrong += [name for name in compiled.float_convolutions if verdicts[name].int8]
    return [f"{verdicts[name]}" for name in wrong]


@pytest.mark.parametrize("seed", QUICK)
def test_rules_say_of_a_random_network_what_the_compiler_does(seed: int, tmp_path: Path) -> None:
    assert disagreements(seed, tmp_path) == []


@pytest.mark.heavy
@pytest.mark.parametrize("seed", MANY)
def test_rules_say_of_many_random_networks_what_the_compiler_does(seed: int, tmp_path: Path) -> None:
    assert disagreements(seed, tmp_path) == []
