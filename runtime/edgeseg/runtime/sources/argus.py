"""What NVIDIA's camera daemon says when a CSI camera gives no frame.

The daemon may live on and serve nobody until it is restarted. What its users report of that state is in the threads
that `SIGNS` names; the words are looked for in the journal, as GStreamer passes none of them on.
"""

from __future__ import annotations

import os
import subprocess

RESTART = "sudo systemctl restart nvargus-daemon"

SIGNS = {
    "Failed to create CaptureSession": "github.com/peter-moran/jetson_csi_cam/issues/9",
    "SCF: Error Timeout": "github.com/NVIDIA-AI-IOT/jetbot/issues/1, github.com/ArduCAM/MIPI_Camera/issues/73",
    "(Argus) Error Timeout": "the client's side of the same",
    "Session has suffered a critical failure": "github.com/goodrobots/maverick/issues/994",
    "Connecting to nvargus-daemon failed": "the client's words for a daemon that is not there",
}
"""What a daemon says that needs a restart -> where that is reported."""

NO_CAMERA = "No cameras available"
"""What nvarguscamerasrc says where the kernel found no sensor: no restart mends that."""

_JOURNAL_S = 3.0


def advise(journal: str) -> str:
    """Return how to fix a CSI camera that gives no frame, given what the daemon said of late."""
    for sign in SIGNS:
        if sign in journal:
            return f'the camera daemon is stuck ("{sign}"): {RESTART}'
    if NO_CAMERA in journal:
        return f'check the ribbon cable and the device tree ("{NO_CAMERA}")'
    return f"check the ribbon cable, or restart a stuck camera daemon: {RESTART}"


def read_journal() -> str:
    """Return what the daemon, and the parts of it that live in this process, said in the last minute; empty if unknown.

    The process's own words are in the journal where it is a service.
    """
    who = ("_SYSTEMD_UNIT=nvargus-daemon.service", "+", f"_PID={os.getpid()}")
    command = ("journalctl", "--no-pager", "--output=cat", "--since=-60s", "--lines=300", *who)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_JOURNAL_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
