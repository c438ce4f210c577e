"""How large a network is: by name, by a rule behind the names, or described in a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from edgeseg.runtime.errors import TrainError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Size = Literal["nano", "small", "medium"]
LITE_SCALES = {0: (1.0, 1.0), 2: (1.1, 1.2)}
"""Multipliers of channels and of blocks (Tan and Le's compound scaling; the Lite family's own values)."""

Width = Annotated[int, Field(ge=8, le=512, multiple_of=8)]


class Scale(BaseModel):
    """How large a network is. Frozen; validated on construction."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lite: Literal[0, 2]
    """Which of the EfficientNet-Lite family."""
    stages: Literal[5, 6] = 6
    """How many of its stages: 5 end at stride 16, 6 at stride 32. The seventh adds cost and little else."""
    trimmed: int = Field(default=0, ge=0, le=2)
    """How many blocks the last of them is short of."""
    width: Width
    """Channels of the pyramid."""
    fine: Width
    """Channels of its finest level, from which pixels are classified."""
    dense_stem: tuple[Width, Width] | None = None
    """Channels, at strides 2 and 4, of the dense convolutions that stand in for the stem and the first two stages."""
    fused: tuple[int, ...] = ()
    """Stages, counted from 1, whose blocks are dense (Fused-MBConv) and begin with no pretrained weights."""

    @field_validator("fused")
    @classmethod
    def _stages_are_there(cls, fused: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        first = 3 if info.data.get("dense_stem") else 1
        last = info.data.get("stages", 6)
        if missing := [number for number in fused if not first <= number <= last]:
            raise ValueError(f"the network has no stage {missing[0]}, expected {first} … {last}")
        return tuple(sorted(set(fused)))


def scale_by(step: int) -> Scale:
    """The rule behind the sizes: each step widens the pyramid by 32 channels, its finest level by half of that.

    The first two end early, a block and two blocks short of their last stage, and the first ends at stride 16, behind a
    dense stem: it saves where most of the time goes. From the third on the backbone is the next of the Lite family that
    has pretrained weights here, by compound scaling.
    """
    first = step == 1
    return Scale(
        lite=0 if step < 3 else 2,
        stages=5 if first else 6,
        trimmed=step if step < 3 else 0,
        width=32 * step,
        fine=max(32, 16 * step),
        dense_stem=(16, 48) if first else None,
    )


SIZES: dict[Size, Scale] = {"nano": scale_by(1), "small": scale_by(2), "medium": scale_by(3)}


def read_scale(path: Path) -> Scale:
    """Read a network's size from the table `[network]` of a TOML file. Raises `TrainError` naming the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return Scale.model_validate(document.get("network", {}))
    except OSError as error:
        raise TrainError(f"{path}: {error.strerror}", expected="a TOML file with a table [network]") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise TrainError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise TrainError(f"{path}: [network] {key}: {first['msg']}", fix="see docs/network.md for its keys") from None
