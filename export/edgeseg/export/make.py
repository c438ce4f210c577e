"""From a trained network to a bundle that its own reader accepts, measured on the way."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeseg.export.confidence import CELL
from edgeseg.export.golden import choose_real_frames, write_golden_frames
from edgeseg.export.graph import export_graph
from edgeseg.export.judge import GateError, Judge
from edgeseg.export.parity import Parity, check_parity, choose_pairs
from edgeseg.export.quantise.calibration import Pictures
from edgeseg.export.quantise.lower import Quantisation, choose_int8, choose_run_pictures, lower_to_fp16
from edgeseg.export.quantise.search import Row
from edgeseg.runtime.backends import Backend
from edgeseg.runtime.bundle import pack_bundle, write_bundle
from edgeseg.runtime.commands.common import progress
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import check_classes
from edgeseg.runtime.files import sha256_file, whole_folder, write_bytes
from edgeseg.runtime.frame import Image
from edgeseg.runtime.manifest import (
    MANIFEST,
    SIGNATURE,
    Calibration,
    Golden,
    Manifest,
    Provenance,
    Stage,
    model_name,
)
from edgeseg.train.predict import Predictor
from edgeseg.train.run import LoadedRun

ARCHIVE_ENDING = ".edgeseg"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was made and measured."""

    manifest: Manifest
    manifest_sha256: str
    parity: Parity
    rows: tuple[Row, ...] = ()
    """Every way of quantising that was tried, on the calibration hold-out."""

    @property
    def score(self) -> Stage:
        """What fp32 scored."""
        return self.manifest.stages["fp32"]


def export_bundle(
    run: LoadedRun,
    dataset: Dataset,
    *,
    split: str,
    name: str,
    out: Path,
    attachments: Sequence[Path] = (),
    quantisation: Quantisation | None = None,
    golden_real: int = 0,
    confidence: bool = True,
) -> Exported:
    """Make the bundle `name` of `run` at `out`: a folder, or one file where `out` ends in `.edgeseg`.

    The graph is compared with the network, and scored, on `split` of `dataset`; so are the graphs of the other
    precisions that `quantisation` names (None: fp32 alone), which calibrate on the run's own training splits.
    `attachments` are carried under their own names. At most `golden_real` pictures that choose between ways of
    quantising are golden frames too, and so in the bundle for all to see: their licence must allow it. With
    `confidence` the graphs have the output of `edgeseg.export.confidence` beside the mask. `out` appears whole or not
    at all; a bundle that was there before is replaced. Raises `ExportError` if the graph is not sound,
    does not agree with the network, loses more than it may in another precision (a report is left beside `out`), or
    `out` holds something else; `DatasetError` if the classes are not the network's.
    """
    quantisation = quantisation or Quantisation(precisions=("fp32",))
    check_classes(run.contract, dataset)
    dataset.pairs(split)  # a split that cannot be used is better named before the work than after
    needs_pictures = quantisation.has_int8 or golden_real > 0
    pictures = choose_run_pictures(run, dataset, split, quantisation) if needs_pictures else None
    real = choose_real_frames(dataset, run.contract, pictures.holdout, golden_real) if pictures is not None else {}
    _refuse_foreign(out)
    contract = run.contract.model_copy(update={"confidence_cell": CELL if confidence else None})
    job = _Job(run=run, contract=contract, dataset=dataset, split=split, name=name, attachments=attachments, real=real)
    try:
        if out.suffix != ARCHIVE_ENDING:
            with whole_folder(out) as folder:
                return _fill(folder, job, quantisation, pictures)
        with TemporaryDirectory(prefix="edgeseg-export-") as unpacked:
            exported = _fill(Path(unpacked), job, quantisation, pictures)
            out.parent.mkdir(parents=True, exist_ok=True)
            pack_bundle(unpacked, out)
            return exported
    except GateError as error:
        raise error.keep(out) from None
    except OSError as error:
        raise ExportError(
            f"cannot write {out}: {error.strerror or error}", fix="mend the disk or choose another --out"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    run: LoadedRun
    contract: Contract
    """The run's, with what the graphs give beside the mask."""
    dataset: Dataset
    split: str
    name: str
    attachments: Sequence[Path]
    real: Mapping[str, Image]


def _fill(folder: Path, job: _Job, wanted: Quantisation, pictures: Pictures | None) -> Exported:
    for attachment in job.attachments:
        _attach(attachment, folder)
    with progress("exporting the graph"):
        fp32 = export_graph(job.run.network, job.contract)
        write_bytes(folder / model_name("fp32"), fp32)
    needed = pictures if wanted.has_int8 else None
    int8 = None if needed is None else choose_int8(fp32, job.run, job.dataset, needed, wanted)
    judge = Judge(folder, job.contract, job.dataset, job.split, wanted.limits)
    with judge.open("fp32") as (_, backend):
        parity = _compare(job.run, backend, job.dataset, job.split)
        judge.score_fp32(backend, parity)
        judge.golden_frames = write_golden_frames(folder, job.contract, backend.infer, job.real)
    if "fp16" in wanted.precisions:
        judge.score_fp16(lower_to_fp16(fp32))
    if int8 is not None:
        for placement in int8.placements.values():
            judge.pass_gate(int8.search, placement)
    record = None if int8 is None else int8.pictures.record
    manifest = write_bundle(
        folder,
        name=job.name,
        contract=job.contract,
        stages=judge.stages,
        golden=Golden(frames=judge.golden_frames, agreement=judge.golden),
        provenance=_provenance(job.run, record),
        reference_areas=judge.areas,
    )
    return Exported(
        manifest=manifest,
        manifest_sha256=sha256_file(folder / MANIFEST),
        parity=parity,
        rows=tuple(int8.search.rows) if int8 is not None else (),
    )


def _attach(attachment: Path, folder: Path) -> None:
    target = folder / attachment.name
    if target.exists() or attachment.name in (MANIFEST, SIGNATURE) or attachment.suffix == ".onnx":
        raise ExportError(f"{attachment.name} cannot be attached: the bundle has its own", fix="rename the file")
    shutil.copyfile(attachment, target)


def _compare(run: LoadedRun, backend: Backend, dataset: Dataset, split: str) -> Parity:
    pairs = choose_pairs(dataset, split)
    with progress("comparing with the network", len(pairs)) as advance, Predictor(run.network, run.contract) as network:
        return check_parity(network.infer, backend.infer, run.contract, dataset, pairs, advance=advance)


def _provenance(run: LoadedRun, calibration: Calibration | None) -> Provenance:
    metadata = run.metadata
    return Provenance(
        dataset=metadata["dataset"],
        splits=metadata["digests"],
        seed=metadata["seed"],
        commit=_commit(),
        packages=metadata["packages"],
        training=metadata["config"],
        calibration=calibration,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _commit() -> str | None:
    """Return the commit that this code is of, marked if it was changed since; None outside a checkout."""
    here = Path(__file__)
    # A virtual environment may lie in somebody's repository: only a file that git knows is in ours.
    is_ours = ["git", "ls-files", "--error-unmatch", here.name]
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        for command in (is_ours, describe):
            answer = subprocess.run(command, cwd=here.parent, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()


def _refuse_foreign(out: Path) -> None:
    """What is at `out` will be removed: let it be a bundle, or nothing."""
    is_bundle = (out / MANIFEST).is_file() or (out.is_file() and out.suffix == ARCHIVE_ENDING)
    is_empty = not out.exists() or (out.is_dir() and not any(out.iterdir()))
    if not is_bundle and not is_empty:
        raise ExportError(f"{out} exists and is no bundle", fix="give --out a new folder, or remove this one yourself")
