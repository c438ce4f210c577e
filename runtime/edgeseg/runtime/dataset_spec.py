"""What a `dataset.toml` says: validated, read and written.

name = "yard"
ignore_index = 255                       # label value that is scored nowhere
classes = ["ground", "crate"]
palette = [[128, 64, 128], [0, 0, 142]]  # RGB, one per class
licence = "CC BY 4.0"                    # optional
white_level = 4095                       # optional: the sample that is white in images of more than 8 bits
val_share = 0.2                          # optional: hold out this share of train as val

[splits.train]
images = "images/train"
masks = "masks/train"                    # the same stems
exclude = ["blurred_*"]                  # optional, as is include: patterns on the stem
"""

from __future__ import annotations

import fnmatch
import json
import sys
from pathlib import Path, PurePath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgeseg.runtime.contract import Colour
from edgeseg.runtime.errors import DatasetError
from edgeseg.runtime.frame import WHITE_LEVEL

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DESCRIPTION = "dataset.toml"
TRAIN, VAL = "train", "val"


def _inside(folder: str) -> str:
    # By its words, not by where links lead: a data set whose images are linked in from another disk is ordinary.
    path = PurePath(folder)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{folder!r} leads out of the dataset's folder")
    return folder


class SplitSpec(BaseModel):
    """One `[splits.NAME]` table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Annotated[str, Field(min_length=1), AfterValidator(_inside)]
    masks: Annotated[str, Field(min_length=1), AfterValidator(_inside)]
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _folders_differ(self) -> SplitSpec:
        if PurePath(self.images) == PurePath(self.masks):
            raise ValueError("images and masks are the same folder")
        return self

    def takes(self, stem: str) -> bool:
        """Whether the patterns let `stem` into the split."""
        included = any(fnmatch.fnmatchcase(stem, pattern) for pattern in self.include)
        return included and not any(fnmatch.fnmatchcase(stem, pattern) for pattern in self.exclude)


class DatasetSpec(BaseModel):
    """The content of a `dataset.toml`. Frozen; validated on construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, max_length=64)
    licence: str = "not stated"
    ignore_index: int = Field(ge=0, le=255)
    classes: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(min_length=1, max_length=255)
    palette: tuple[Colour, ...]
    white_level: int = Field(default=WHITE_LEVEL, ge=256, le=WHITE_LEVEL)
    """Sample of an image of more than 8 bits that is white; what is above it is white too."""
    val_share: float | None = Field(default=None, gt=0, le=0.5)
    """Share of split `train` that is held out as `val`; None where the splits are as they are listed."""
    splits: dict[str, SplitSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _classes_agree(self) -> DatasetSpec:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: names are not unique")
        if len(self.palette) != len(self.classes):
            raise ValueError(f"palette: {len(self.palette)} colours for {len(self.classes)} classes")
        if len(set(self.palette)) != len(self.palette):
            raise ValueError("palette: colours are not unique")
        if self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index: {self.ignore_index} is also the index of {self.classes[self.ignore_index]!r}"
            )
        return self

    @model_validator(mode="after")
    def _val_is_held_out_once(self) -> DatasetSpec:
        if self.val_share is not None and (TRAIN not in self.splits or VAL in self.splits):
            raise ValueError(f"val_share: holds out a share of split {TRAIN!r} as {VAL!r}, so only the first is listed")
        return self


def read_spec(toml: Path) -> DatasetSpec:
    """Read a `dataset.toml`. Raises `DatasetError` that names the field if it is absent or malformed."""
    try:
        return DatasetSpec.model_validate(tomllib.loads(toml.read_text(encoding="utf-8")))
    except OSError as error:
        raise DatasetError(
            f"{toml}: {error.strerror or error}",
            expected="a dataset.toml",
            fix="describe the folder's classes and splits in a dataset.toml, or make a dataset of plain masks or of "
            "another tool's labels: `edgeseg data import FOLDER --from masks --out NEW`",
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{toml}: not UTF-8", fix="save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{toml}: not TOML: {error}", fix="mend that line") from None
    except ValidationError as error:
        raise DatasetError(f"{toml}: {_first_mistake(error)}", fix="mend that key") from None


def write_spec(toml: Path, spec: DatasetSpec) -> None:
    """Write `spec` so that `read_spec` gives it back."""
    lines = [
        f"name = {_quoted(spec.name)}",
        f"licence = {_quoted(spec.licence)}",
        f"ignore_index = {spec.ignore_index}",
        f"classes = [{', '.join(map(_quoted, spec.classes))}]",
        f"palette = {json.dumps(spec.palette)}",
    ]
    if spec.white_level != WHITE_LEVEL:
        lines.append(f"white_level = {spec.white_level}")
    if spec.val_share is not None:
        lines.append(f"val_share = {spec.val_share!r}")
    for name, split in spec.splits.items():
        lines += ["", f"[splits.{_quoted(name)}]"]
        lines += [f"images = {_quoted(split.images)}", f"masks = {_quoted(split.masks)}"]
        for key, patterns, default in (("include", split.include, ("*",)), ("exclude", split.exclude, ())):
            if patterns != default:
                lines.append(f"{key} = [{', '.join(map(_quoted, patterns))}]")
    toml.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but for DEL, which JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    message = str(first.get("ctx", {}).get("error", first["msg"]))
    return ": ".join(part for part in (".".join(map(str, first["loc"])), message) if part)
