"""`python -m edgeseg.export.check.worker MODEL TARGET LOG`: compile one graph in a process of its own.

NVIDIA's library can crash on a hostile file. Here it takes nothing with it. The log goes to LOG, messages of severity
error to standard output; exit status 0 compiled, 3 refused.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

_REFUSED = 3
# Where an input's size is left open, the engine is built for this one.
_OPEN_BATCH, _OPEN_SIZE = 1, 256


def main(model: str, target: str, log_path: str) -> int:
    """Parse and build `model` for `target` ("sm86")."""
    trt: Any = importlib.import_module("tensorrt_rtx")

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(_tidy(message))

    logger = Logger()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    plan = None
    if parser.parse_from_file(model):
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
        _fix_sizes(builder, network, config)
        plan = builder.build_serialized_network(network, config)
    Path(log_path).write_text("\n".join(logger.lines), encoding="utf-8")
    if plan is not None:
        return 0
    errors = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
    sys.stdout.write("\n".join(errors or logger.errors or ["refused without a reason"]) + "\n")
    return _REFUSED


def _describe(error: Any) -> str:
    name = error.node_name()
    # The parser's operator table answers "false" and no more.
    reason = "not supported" if error.desc() == "false" else _tidy(error.desc())
    return f"{name} ({error.node_operator()}): {reason}" if name else reason


def _tidy(message: str) -> str:
    """Join a message's lines up to the first that only says where in the library it arose."""
    lines = message.splitlines()
    kept = [line for at, line in enumerate(lines) if at == 0 or not line.startswith("[")]
    return " ".join(" ".join(kept).split())


def _fix_sizes(builder: Any, network: Any, config: Any) -> None:
    profile = None
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape:
            profile = profile or builder.create_optimization_profile()
            fixed = [size if size >= 0 else _OPEN_SIZE if at else _OPEN_BATCH for at, size in enumerate(shape)]
            profile.set_shape(tensor.name, fixed, fixed, fixed)
    if profile is not None:
        config.add_optimization_profile(profile)


if __name__ == "__main__":
    status = main(*sys.argv[1:4])
    sys.stdout.flush()
    # The library's destructors have been seen to crash after the work was done.
    os._exit(status)
