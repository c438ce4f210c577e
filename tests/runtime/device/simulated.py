"""The command `edgeseg` in a process whose GPU and TensorRT are simulated.

`python -m tests.runtime.device.simulated LIBRARY VERSION run BUNDLE ...`. Exit status 3, with a line each on standard
error, if the backend did something wrong or left something behind; else the command's own.
"""

from __future__ import annotations

import gc
import sys
import warnings
from pathlib import Path

import click
from tests.runtime.device.fake_tensorrt import make_tensorrt
from tests.runtime.device.simulator import Simulator

from edgeseg.runtime.cli import main

_PROBLEMS = 3


def run(library: str, version: str, *arguments: str) -> int:
    """Run the command and return its exit status, or 3."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycuda's own, at import
        sim = Simulator(Path(library))
    sys.modules["tensorrt"] = make_tensorrt(version, sim)
    try:
        status = main(list(arguments), standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    gc.collect()
    problems = sim.problems()
    for problem in problems:
        click.echo(problem, err=True)
    return _PROBLEMS if problems else status


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
