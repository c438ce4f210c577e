"""Whether a dataset is still what a network was made from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.dataset import Dataset
from edgeseg.runtime.dataset_findings import Finding, Problem
from edgeseg.runtime.dataset_spec import DESCRIPTION
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.evaluate import is_run

METRICS = "metrics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """A split's content as it was when a network was made."""

    digest: str
    """By `Dataset.digest`."""
    use: str
    """What the network used it for."""


def recorded_splits(network: str) -> dict[str, Recorded]:
    """Return the splits that a bundle, a shipped model or a run's folder was trained and scored on, by name.

    Raises `BundleError` or `DatasetError` if it is neither, or records none.
    """
    if is_run(Path(network)):
        return _of_run(Path(network))
    with open_bundle(network) as bundle:
        manifest = bundle.manifest
    scored = {stage.split: Recorded(digest=stage.split_sha256, use="scored on") for stage in manifest.stages.values()}
    trained = {name: Recorded(digest=digest, use="trained on") for name, digest in manifest.provenance.splits.items()}
    return scored | trained


def _of_run(run: Path) -> dict[str, Recorded]:
    try:
        digests = json.loads((run / METRICS).read_bytes())["dataset"]["digests"]
        return {str(split): Recorded(digest=str(digest), use="trained on") for split, digest in digests.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DatasetError(
            f"{run / METRICS} tells no digests", expected="a training that ended", fix="finish it with --resume"
        ) from None


def compare(
    dataset: Dataset, recorded: Mapping[str, Recorded], network: str, advance: Callable[[], object] = lambda: None
) -> Iterator[Finding]:
    """Yield a finding for each recorded split whose files, classes, palette or ignore index differ from the record.

    `advance` is called after each split. Raises `DatasetError` if a split has files without mates.
    """
    for split, record in recorded.items():
        if split not in dataset.splits:
            yield _finding(split, DESCRIPTION, "no such split", record, network)
        elif (digest := dataset.digest(split)) != record.digest:
            yield _finding(split, dataset.splits[split].images, f"content {digest[:12]}…", record, network)
        advance()


def _finding(split: str, file: str, found: str, record: Recorded, network: str) -> Finding:
    problem = Problem(
        rule="changed",
        file=file,
        found=f"split {split!r}: {found}",
        expected=f"{record.digest[:12]}…, which {network} was {record.use}",
        fix="restore its images, masks, classes and palette, or train and export again",
    )
    return Finding(splits=(split,), stem="", problem=problem)
