"""Power mode and clocks, as the settings ask, with NVIDIA's own tools where they are there.

It runs as root at every boot and every ten minutes: a mode outlives a boot, clocks do not, and what another program
changed meanwhile is set again.
"""

from __future__ import annotations

import re
import shutil
import subprocess

from .config import Config
from .errors import AgentError

_LIMIT_S = 60


def set_power(config: Config) -> str:
    """Set what the settings name, and return one line for a person. Raises `AgentError` if a tool refuses.

    A mode that is set already is left alone, for setting it would reset the clocks.
    """
    done = []
    if config.power_mode is not None and shutil.which("nvpmodel"):
        if _mode() != config.power_mode:
            # No word at its standard input: for some modes it offers to reboot the device.
            _run("nvpmodel", "-m", str(config.power_mode))
            if _mode() != config.power_mode:
                raise AgentError(f"nvpmodel keeps mode {_mode()}", expected=f"{config.power_mode}", fix="reboot it")
        done.append(f"power mode {config.power_mode}")
    if config.max_clocks and shutil.which("jetson_clocks"):
        _run("jetson_clocks")
        done.append("clocks at their highest")
    return ", ".join(done) or "nothing to set"


def _mode() -> int | None:
    numbers = re.findall(r"^\d+$", _run("nvpmodel", "-q"), re.MULTILINE)
    return int(numbers[-1]) if numbers else None


def _run(*words: str) -> str:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=_LIMIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"{words[0]} failed: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise AgentError(f"{' '.join(words)} ended with status {done.returncode}: {said[-1] if said else 'no word'}")
    return done.stdout
