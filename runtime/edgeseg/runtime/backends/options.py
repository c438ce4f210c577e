"""What a GPU's backend may do, apart from the bundle and the precision: given by a caller or by the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from edgeseg.runtime.errors import BackendError

_WORDS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}


@dataclass(frozen=True, kw_only=True)
class BackendOptions:
    """How a GPU runs a graph. `open_backend` takes them from the environment where a caller gives none.

    `zero_copy` (`EDGESEG_ZERO_COPY`): the GPU reads frames from and writes masks to the host's memory; only an
    integrated GPU can, and whether that is faster than copying is the device's to say: `edgeseg accept` measures it.

    `graph` (`EDGESEG_CUDA_GRAPH`): an inference is launched as one CUDA graph, which needs cuda-python. None: at
    warm-up both ways are timed, and the faster is kept. True: always; False: never.

    `build` (`EDGESEG_BUILD`): whether an engine that is absent or stale may be built now. A service says no: it starts
    in seconds on what there is, and `edgeseg build` makes the engine beside it, for the next start.
    """

    zero_copy: bool = False
    graph: bool | None = None
    build: bool = True

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> BackendOptions:
        """Read the variables above: 1, yes, true or on; 0, no, false or off. Raises `BackendError` for other words."""

        def read(variable: str) -> bool | None:
            text = environment.get(variable, "").strip().lower()
            if text and text not in _WORDS:
                raise BackendError(f"{variable}={text}", expected="1 or 0", fix="set one of these, or leave it out")
            return _WORDS.get(text)

        build = read("EDGESEG_BUILD")
        return cls(
            zero_copy=bool(read("EDGESEG_ZERO_COPY")),
            graph=read("EDGESEG_CUDA_GRAPH"),
            build=True if build is None else build,
        )

    def refuse_for(self, backend: str) -> None:
        """Raise `BackendError` if these ask what only backend tensorrt can do."""
        for name, asked in (("zero-copy memory", self.zero_copy), ("a CUDA graph", self.graph)):
            if asked:
                raise BackendError(f"{name} with backend {backend}", expected="backend tensorrt", fix="leave it out")


DEFAULTS = BackendOptions()
