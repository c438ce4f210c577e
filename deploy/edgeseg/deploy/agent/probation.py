"""Whether a version on trial is as good as the one before. No file is touched here, and no clock read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .config import Config
from .health import Health
from .records import Trial

_MAX_STEP_S = 60
"""What one look can add: nothing is known of a longer time without one."""


@dataclass(frozen=True)
class Look:
    """One look at the service: the last report, the time of the look, and the space that is free by then."""

    boot_id: str
    now_s: float
    health: Health | None
    free_mb: int


def count_start(trial: Trial, boot_id: str, config: Config) -> Trial:
    """Return `trial` with one more start of the service; it has failed if that is one too many.

    One start in each boot is what a healthy version needs: a second is a crash, or the watchdog. A few boots can be
    power cuts, more are a reboot loop.
    """
    if trial.boot_id != boot_id:
        trial = _new_boot(trial, boot_id, config)
    trial = replace(trial, starts=trial.starts + 1)
    if trial.starts > 1 and not trial.failure:
        return replace(trial, failure="the service did not stay up: it was started again")
    return trial


def judge(trial: Trial, look: Look, config: Config) -> tuple[Trial, bool]:
    """Return `trial` after another look at the service, and whether it has passed. A failure is in `failure`."""
    if trial.boot_id != look.boot_id:
        trial = _new_boot(trial, look.boot_id, config)
    step_s = 0.0 if trial.seen_s is None else min(max(0.0, look.now_s - trial.seen_s), _MAX_STEP_S)
    trial = replace(trial, seen_s=look.now_s)
    if trial.failure:
        return trial, False
    if look.free_mb < config.least_free_mb:
        return replace(
            trial, failure=f"the disk is full: {look.free_mb} MB are free, {config.least_free_mb} must be"
        ), False
    health = look.health
    if health is None or health.release != trial.digest or not health.fresh(look.boot_id, look.now_s):
        return _silent(trial, step_s, "no sign of life of the new version", config), False
    if health.golden is not None and health.golden < config.golden_min:
        found = f"masks differ from the golden ones: {health.golden:.4f} of what is required"
        return replace(trial, failure=found), False
    if not health.alive:
        return _silent(trial, step_s, "a stage hangs", config), False
    if trial.flowing and not health.flowing:
        if health.present is True:
            return _silent(trial, step_s, "the camera is there and frames no longer flow", config), False
        # An unplugged camera says nothing about the version, for or against it.
        return replace(trial, silent_s=0, note="waiting for the camera that was there before"), False
    trial = replace(trial, silent_s=0, healthy_s=trial.healthy_s + step_s, note="healthy so far")
    if trial.healthy_s < config.probation_s:
        return trial, False
    limit_ms = None if trial.frame_age_ms is None else trial.frame_age_ms * config.age_factor + config.age_slack_ms
    if limit_ms is not None and health.frame_age_ms is not None and health.frame_age_ms > limit_ms:
        found = f"too slow: frames are {health.frame_age_ms:.0f} ms old, {trial.frame_age_ms:.0f} before"
        return replace(trial, failure=found), False
    return trial, True


def _new_boot(trial: Trial, boot_id: str, config: Config) -> Trial:
    trial = replace(trial, boot_id=boot_id, boots=trial.boots + 1, starts=0, seen_s=None, asked_s=0, silent_s=0)
    if trial.boots > config.max_boots and not trial.failure:
        return replace(trial, failure=f"a reboot loop: {trial.boots} boots without becoming permanent")
    return trial


def _silent(trial: Trial, step_s: float, what: str, config: Config) -> Trial:
    trial = replace(trial, healthy_s=0, silent_s=trial.silent_s + step_s, note=what)
    return replace(trial, failure=f"{what} for {config.start_s:g} s") if trial.silent_s > config.start_s else trial
