"""What a device must show, in order. Each step gives one line, and none that fails keeps the others from running."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from edgeseg.runtime.accept.engines import EngineCases, compare_graph, compare_zero_copy, give_memory_back
from edgeseg.runtime.accept.faults import survive_faults
from edgeseg.runtime.accept.line import Line, Verdict, judge, not_run, raised
from edgeseg.runtime.accept.live import LiveMinute
from edgeseg.runtime.accept.trial import Trial, medians_ms
from edgeseg.runtime.backends.tensorrt import PlanRunner
from edgeseg.runtime.dataset_bad_pairs import BadPairs
from edgeseg.runtime.doctor import examine, is_ready
from edgeseg.runtime.engine.choice import Engines
from edgeseg.runtime.evaluate import BundlePredictor, evaluate
from edgeseg.runtime.first_use import least_agreement

Step = tuple[str, Callable[[], Verdict]]

_SLOWER = 1.25
"""How much slower than its fastest rival a choice may be: less is noise."""
_MAX_DROP = 1.0
"""Points of mIoU that a precision may lose where the manifest sets no limit of its own."""


def plan_steps(trial: Trial, stack: ExitStack) -> list[Step]:
    """Return all steps by name. What they leave is removed when `stack` ends."""
    cases, live = EngineCases(trial, stack), LiveMinute(trial)
    return [
        ("doctor", find_what_is_missing),
        ("build", partial(build_engines, trial)),
        *((f"golden frames, {one}", partial(compare_golden, trial, one)) for one in trial.precisions),
        (" against ".join(one.upper() for one in trial.rivals), partial(compare_precisions, trial)),
        *cases.steps(),
        ("zero-copy against copying", partial(compare_zero_copy, trial)),
        ("CUDA graph against none", partial(compare_graph, trial)),
        ("memory given back", partial(give_memory_back, trial)),
        ("live camera", live.run),
        *((f"objective {one.text}", partial(live.judge_objective, one)) for one in trial.objectives),
        ("power and temperature", live.judge_power),
        ("faults", partial(survive_faults, trial)),
        *((f"mIoU, {one}", partial(score, trial, one)) for one in trial.rivals),
    ]


def run_steps(steps: list[Step], *, tell: Callable[[list[Line], int], None]) -> list[Line]:
    """Take the steps; after each, `tell` gets all lines and how many of them are known.

    What a step raises is its line. An interrupt ends the rest, and is raised again after `tell` knows.
    """
    lines = [Line(name=name, verdict=not_run("the program ended before")) for name, _ in steps]
    for index, (name, step) in enumerate(steps):
        try:
            verdict = step()
        except Exception as error:  # whatever a driver raises is a finding
            verdict = raised(error)
        except KeyboardInterrupt:
            lines[index:] = [Line(name=later, verdict=not_run("interrupted")) for later, _ in steps[index:]]
            tell(lines, len(lines))
            raise
        lines[index] = Line(name=name, verdict=verdict)
        tell(lines, index + 1)
    return lines


def find_what_is_missing() -> Verdict:
    """Ask the doctor."""
    findings = examine()
    told = [f"{one.check}: {one.found}" for one in findings if one.level in ("error", "warning")]
    return judge(
        is_ready(findings),
        "; ".join(told) or "nothing that is needed is missing",
        fix="edgeseg doctor tells the fix for each",
        findings=[finding.document() for finding in findings],
    )


def build_engines(trial: Trial) -> Verdict:
    """Build what is not there yet, as `edgeseg build` does."""
    subject, contract = trial.subject, trial.bundle.contract
    if subject.gpu is None:
        return not_run("it needs TensorRT and a GPU: ONNX Runtime builds no engines")
    trt, gpu = subject.trt, subject.gpu
    began_s = time.monotonic()
    found = Engines(trt, gpu).measure(
        trial.bundle, lambda plan, precision: PlanRunner(trt, gpu, plan, contract, precision)
    )
    took_s = time.monotonic() - began_s
    said = ", ".join(f"{one.precision} {one.median_ms:.2f} ms{'' if one.right else ' (wrong)'}" for one in found)
    engines = [{"precision": one.precision, "bytes": one.bytes, "agreement": one.agreement} for one in found]
    return judge(True, f"{said}; in {took_s:.0f} s", seconds=round(took_s, 1), engines=engines)


def compare_golden(trial: Trial, precision: str) -> Verdict:
    """Compare the masks of the golden frames with those of the machine that made the bundle."""
    golden = trial.bundle.manifest.golden
    required = golden.agreement.get(precision)  # type: ignore[call-overload]
    if required is None or not golden.frames:
        return not_run(f"the bundle requires nothing of {precision}")
    with trial.opened(precision) as engine:
        share = least_agreement(trial.bundle, engine)
    return judge(
        share >= required,
        f"{_floor_percent(share)} of the worst frame's pixels are right, {required * 100:.2f} % are required",
        fix="leave this precision out with --precision, update the engine, and report it with this page",
        agreement=share,
        required=required,
    )


def compare_precisions(trial: Trial) -> Verdict:
    """Time the precisions in turns, and see that `auto` takes the fastest of those that are right."""
    rivals = trial.rivals
    if len(rivals) < 2:
        return not_run(f"the bundle has no other graph for this backend than {rivals[0]}")
    with ExitStack() as stack:
        engines = [stack.enter_context(trial.opened(one)) for one in rivals]
        times_ms = dict(zip(rivals, medians_ms(engines, trial.a_frame()), strict=True))
        agreement = {engine.precision: least_agreement(trial.bundle, engine) for engine in engines}
    required = trial.bundle.manifest.golden.agreement
    right = [one for one in rivals if agreement[one] >= required.get(one, 0.0)]  # type: ignore[call-overload]
    with trial.opened() as engine:
        chosen = engine.precision
    best_ms = min((times_ms[one] for one in right), default=math.inf)
    said = ", ".join(f"{one} {ms:.3g} ms" for one, ms in times_ms.items())
    return judge(
        chosen not in right or times_ms[chosen] <= _SLOWER * best_ms,
        f"{said}; auto takes {chosen}",
        fix=f"edgeseg build --rebuild {trial.bundle.name}, or name a --precision",
        p50_ms=times_ms,
        chosen=chosen,
    )


def score(trial: Trial, precision: str) -> Verdict:
    """Score a precision on the labelled split, against the manifest's figure for that split where it has one."""
    if trial.scored is None:
        return not_run("no labelled images were given: --data DATASET --split S")
    dataset, split = trial.scored.dataset, trial.scored.split
    with trial.opened(precision) as engine, trial.progress() as advance:
        predictor = BundlePredictor(contract=trial.bundle.contract, backend=engine)
        bad = BadPairs(len(dataset.pairs(split)))
        matrix = evaluate(predictor, dataset, split, on_unreadable=bad.add, advance=advance)
    if matrix.miou is None:
        return not_run(f"no pixel of {split} is labelled")
    passed_over = f" ({len(bad)} that cannot be read left out)" if len(bad) else ""
    said = f"{matrix.miou:.2f} % on {matrix.images} images of {dataset.name}, {split}{passed_over}"
    stage = trial.bundle.manifest.stages.get(precision)  # type: ignore[call-overload]
    if stage is None or stage.miou is None or stage.split_sha256 != dataset.digest(split):
        return judge(True, f"{said}; the manifest has no figure for these images", **matrix.document())
    limit = stage.thresholds.get("drop", _MAX_DROP)
    return judge(
        matrix.miou >= stage.miou - limit,
        f"{said}; {stage.miou:.2f} % where the bundle was made, and {limit:g} less are allowed",
        fix="see the golden frames' lines: where they pass, the images or labels are not the same",
        **matrix.document(),
    )


def _floor_percent(share: float) -> str:
    # Never rounded up to what is required.
    return f"{math.floor(share * 1e4) / 1e2:.2f} %"
