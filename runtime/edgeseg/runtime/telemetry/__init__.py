"""What a run costs the device: power, heat, clocks, memory, throttling.

On a Jetson the figures come from `tegrastats`, on a PC with an NVIDIA GPU from NVML (`pip install nvidia-ml-py`). A
figure that neither gives is absent, never zero. A run's document gets them so:

    with Sampler() as sampler:
        ...  # the run
    write_document(json_path, "run", **summary.document(), **sampler.document(frames=summary.frames))
"""

from __future__ import annotations

from edgeseg.runtime.telemetry.account import Account, joules_per_frame
from edgeseg.runtime.telemetry.reading import Reading
from edgeseg.runtime.telemetry.sampler import Sampler
from edgeseg.runtime.telemetry.tegrastats import parse_line

__all__ = ["Account", "Reading", "Sampler", "joules_per_frame", "parse_line"]
