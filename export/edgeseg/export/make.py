"""From a trained network to a bundle that its own reader accepts, measured on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeseg.export.golden import FP32_AGREEMENT, write_golden_frames
from edgeseg.export.graph import export_graph
from edgeseg.export.parity import MIN_AGREEMENT, Parity, check_parity, choose_pairs
from edgeseg.runtime.backends import Backend, open_backend
from edgeseg.runtime.bundle import open_bundle, pack_bundle, write_bundle
from edgeseg.runtime.commands.common import progress
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import ExportError
from edgeseg.runtime.evaluate import BundlePredictor, check_classes, evaluate
from edgeseg.runtime.files import sha256_file, whole_folder, write_bytes
from edgeseg.runtime.manifest import MANIFEST, SIGNATURE, Golden, Manifest, Provenance, Stage, model_name
from edgeseg.train.predict import Predictor
from edgeseg.train.run import LoadedRun

ARCHIVE_ENDING = ".edgeseg"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What was made and measured."""

    manifest: Manifest
    manifest_sha256: str
    parity: Parity
    score: Stage


def export_bundle(
    run: LoadedRun, dataset: Dataset, *, split: str, name: str, out: Path, attachments: Sequence[Path] = ()
) -> Exported:
    """Make the bundle `name` of `run` at `out`: a folder, or one file where `out` ends in `.edgeseg`.

    The graph is compared with the network, and scored, on `split` of `dataset`. `attachments` are carried under
    their own names. `out` appears whole or not at all; a bundle that was there before is replaced. Raises
    `ExportError` if the graph is not sound, does not agree with the network, or `out` holds something else;
    `DatasetError` if the classes are not the network's.
    """
    check_classes(run.contract, dataset)
    dataset.pairs(split)  # a split that cannot be used is better named before the work than after
    _refuse_foreign(out)
    try:
        if out.suffix != ARCHIVE_ENDING:
            with whole_folder(out) as folder:
                return _fill(folder, run, dataset, split, name, attachments)
        with TemporaryDirectory(prefix="edgeseg-export-") as unpacked:
            exported = _fill(Path(unpacked), run, dataset, split, name, attachments)
            out.parent.mkdir(parents=True, exist_ok=True)
            pack_bundle(unpacked, out)
            return exported
    except OSError as error:
        raise ExportError(
            f"cannot write {out}: {error.strerror or error}", fix="mend the disk or choose another --out"
        ) from error


def _fill(
    folder: Path, run: LoadedRun, dataset: Dataset, split: str, name: str, attachments: Sequence[Path]
) -> Exported:
    for attachment in attachments:
        _attach(attachment, folder)
    with progress("exporting the graph"):
        write_bytes(folder / model_name("fp32"), export_graph(run.network, run.contract))
    provenance = _provenance(run)
    # A draft first: the graph is then compared and scored through the very door that a device opens.
    write_bundle(folder, name=name, contract=run.contract, stages={}, golden=Golden(), provenance=provenance)
    with closing(open_backend(open_bundle(folder), backend="ort", precision="fp32")) as backend:
        parity = _compare(run, backend, dataset, split)
        score = _score(run, backend, parity, dataset, split)
        golden = write_golden_frames(folder, run.contract, backend.infer)
    manifest = write_bundle(
        folder,
        name=name,
        contract=run.contract,
        stages={"fp32": score},
        golden=Golden(frames=golden, agreement={"fp32": FP32_AGREEMENT}),
        provenance=provenance,
    )
    return Exported(manifest=manifest, manifest_sha256=sha256_file(folder / MANIFEST), parity=parity, score=score)


def _attach(attachment: Path, folder: Path) -> None:
    target = folder / attachment.name
    if target.exists() or attachment.name in (MANIFEST, SIGNATURE) or attachment.suffix == ".onnx":
        raise ExportError(f"{attachment.name} cannot be attached: the bundle has its own", fix="rename the file")
    shutil.copyfile(attachment, target)


def _compare(run: LoadedRun, backend: Backend, dataset: Dataset, split: str) -> Parity:
    pairs = choose_pairs(dataset, split)
    with progress("comparing with the network", len(pairs)) as advance, Predictor(run.network, run.contract) as network:
        return check_parity(network, backend.infer, run.contract, dataset, pairs, advance=advance)


def _score(run: LoadedRun, backend: Backend, parity: Parity, dataset: Dataset, split: str) -> Stage:
    with progress(f"scoring on {split}", len(dataset.pairs(split))) as advance:
        predictor = BundlePredictor(contract=run.contract, backend=backend)
        matrix = evaluate(predictor, dataset, split, advance=advance)
    return Stage(
        **matrix.document(),
        split=split,
        split_sha256=dataset.digest(split),
        instruction_set=environment().get("instruction_set", ()),
        pixel_agreement=parity.agreement,
        thresholds={"pixel_agreement": MIN_AGREEMENT},
    )


def _provenance(run: LoadedRun) -> Provenance:
    metadata = run.metadata
    return Provenance(
        dataset=metadata["dataset"],
        splits=metadata["digests"],
        seed=metadata["seed"],
        commit=_commit(),
        packages=metadata["packages"],
        training=json.loads(json.dumps(metadata["config"])),  # tuples become lists, as they are in a file
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
