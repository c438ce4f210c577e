"""`manifest.json`: what a bundle says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from edgeseg.runtime.contract import Contract
from edgeseg.runtime.errors import BundleError

SCHEMA = "edgeseg/bundle/1"
NAME_PATTERN = "^[a-z0-9][a-z0-9._-]{0,63}$"
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
MAX_MANIFEST_BYTES = 1 << 22
MAX_BUNDLE_BYTES = 1 << 31

OPEN_FIX = "name a bundle's folder, its .edgeseg archive or a shipped model"
COPY_FIX = "copy or export the bundle again"

Precision = Literal["fp32", "fp16", "int8", "int8-cpu"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8", "int8-cpu")

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def model_name(precision: str) -> str:
    """Return the file name of the graph of `precision`."""
    return f"model.{precision}.onnx"


def golden_paths(name: str) -> tuple[str, str]:
    """Return where golden frame `name` and its mask lie in a bundle."""
    return f"golden/{name}.frame.png", f"golden/{name}.mask.png"


def _safe_path(path: str) -> str:
    # The same rule everywhere, so that a bundle made here cannot escape its folder on a device, or on Windows.
    if any(part in ("", ".", "..") for part in path.split("/")) or not path.isprintable() or set(path) & set("\\:"):
        raise ValueError(f"path {path!r} escapes the folder or is not plain")
    if path in (MANIFEST, SIGNATURE):
        raise ValueError(f"{path} cannot be listed")
    return path


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileEntry(_Part):
    """Size in bytes and SHA-256 of a file."""

    size: int = Field(ge=0, le=MAX_BUNDLE_BYTES)
    sha256: Sha256


class Raised(_Part):
    """A layer that the gate raised to a higher precision, and why."""

    precision: Literal["fp16", "fp32"]
    reason: str


class Calibration(_Part):
    """The pictures that the ranges of INT8 were observed on, and those that chose between the options."""

    splits: dict[str, Sha256]
    """Digest of every split that the pictures come from, by `Dataset.digest`."""
    images: int = Field(ge=1)
    images_sha256: Sha256
    """Over the names and contents of just these pictures."""
    holdout: str
    """The split, or the part of one, that the options were compared on."""
    holdout_images: int = Field(ge=1)
    holdout_sha256: Sha256


class Stage(_Part):
    """What the graph of one precision scored, on which pictures and which arithmetic, and what it had to pass."""

    miou: Percent | None = None
    per_class_iou: dict[str, Percent]
    pixel_accuracy: Percent | None = None
    images: int = Field(ge=1)
    split: str
    split_sha256: Sha256
    """The split's digest, by `Dataset.digest`."""
    instruction_set: tuple[str, ...]
    """What of the processor decides how arithmetic comes out, as `edgeseg.runtime.environment` names it."""
    pixel_agreement: Fraction | None = None
    """Share of pixels on which it gave the class that the network or graph it was made from gives."""
    thresholds: dict[str, float] = {}
    """Limits that held when the bundle was made, by the name of the figure that each limits."""
    drop: float | None = None
    """Points of mIoU lost to fp32 on the same pictures; below zero where it gained."""
    class_drop: float | None = None
    """Points that the class lost that lost most."""
    options: dict[str, str] = {}
    """How it was made, where there was a choice."""
    raised: dict[str, Raised] = {}
    """Convolutions of the graph that are not INT8."""


class Golden(_Part):
    """Frames with the masks that they must give, and the share of pixels that must agree."""

    frames: tuple[str, ...] = ()
    agreement: dict[Precision, Fraction] = {}


class Provenance(_Part):
    """Where the weights come from."""

    dataset: str
    splits: dict[str, Sha256]
    """Digest of every split that was trained on, by `Dataset.digest`."""
    seed: int | None = None
    commit: str | None = None
    packages: dict[str, str] = {}
    training: dict[str, JsonValue] = {}
    """The settings that it was trained with."""
    calibration: Calibration | None = None
    created: str
    """ISO 8601, UTC."""


class Manifest(_Part):
    """The whole of `manifest.json`. Frozen; validated on construction."""

    schema_: Literal["edgeseg/bundle/1"] = Field(alias="schema")
    name: str = Field(pattern=NAME_PATTERN)
    contract: Contract
    files: dict[Annotated[str, AfterValidator(_safe_path)], FileEntry]
    stages: dict[Precision, Stage]
    golden: Golden
    provenance: Provenance
    reference_areas: dict[str, Fraction] | None = None
    """Class -> share of the pixels of the masks that the reference gave on the pictures that it was scored on."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        if not self.precisions:
            raise ValueError("no file model.PRECISION.onnx")
        if sum(entry.size for entry in self.files.values()) > MAX_BUNDLE_BYTES:
            raise ValueError(f"the files have more than {MAX_BUNDLE_BYTES} bytes")
        for precision in [*self.stages, *self.golden.agreement]:
            if precision not in self.precisions:
                raise ValueError(f"{precision} is scored but has no file {model_name(precision)}")
        for path in (path for name in self.golden.frames for path in golden_paths(name)):
            if path not in self.files:
                raise ValueError(f"golden frame without file {path}")
        return self

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that there is a graph for, the reference first."""
        return tuple(precision for precision in PRECISIONS if model_name(precision) in self.files)

    def check_names(self, found: Iterable[str]) -> None:
        """Raise `BundleError` unless `found` names the listed files, the manifest, perhaps its signature, no more."""
        found, listed = set(found), set(self.files)
        if missing := sorted(listed - found):
            raise BundleError(f"bundle lacks {', '.join(missing)}", fix=COPY_FIX)
        if unlisted := sorted(found - listed - {MANIFEST, SIGNATURE}):
            raise BundleError(f"{', '.join(unlisted)}: not in {MANIFEST}", fix="remove what the manifest does not list")


def read_manifest(folder: Path) -> bytes:
    """Return the bytes of the manifest in `folder`. Raises `BundleError` if there are too many."""
    with (folder / MANIFEST).open("rb") as stream:
        data = stream.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes", fix=COPY_FIX)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Parse and validate `manifest.json`. Raises `BundleError` naming the schema or the field that is wrong."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is not JSON ({error})", fix=COPY_FIX) from None
    found = document.get("schema") if isinstance(document, dict) else None
    if found != SCHEMA:
        raise BundleError(
            f"{MANIFEST} has schema {found!r}",
            expected=repr(SCHEMA),
            fix="use the edgeseg version that made the bundle",
        )
    try:
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        raise invalid_manifest(error) from None


def invalid_manifest(error: ValidationError) -> BundleError:
    """Say in one line what pydantic found first."""
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"])) or "manifest"
    return BundleError(f"{MANIFEST}: {field}: {first['msg']}", fix=COPY_FIX)
