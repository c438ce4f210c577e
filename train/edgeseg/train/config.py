"""What a training run is told, validated once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edgeseg.runtime.contract import Fit
from edgeseg.runtime.errors import TrainError
from edgeseg.train.sizes import SIZES, Scale, Size


def _multiple_of_32(side: int) -> int:
    if side % 32:
        raise ValueError(f"{side} is not a multiple of 32")
    return side


Precision = Literal["fp32", "bf16", "fp16"]
Side = Annotated[int, Field(ge=64, le=4096), AfterValidator(_multiple_of_32)]


class TrainConfig(BaseModel):
    """One run's recipe. Frozen. Make it with `of`, which raises `TrainError` for a value out of range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("train",)
    """Splits to learn from, taken together."""
    select: str | None = "val"
    """Split scored after every `score_every` epochs; None trains without one."""
    epochs: int = Field(default=30, ge=0, le=100_000)
    """0 makes a run of the weights that it begins with, as they are."""
    batch: int = Field(default=4, ge=1, le=4096)
    seed: int = Field(default=0, ge=0)
    height: Side = 384
    width: Side = 512
    fit: Fit = "letterbox"
    crop: float = Field(default=0.75, ge=0.25, le=1.0)
    """Side of the training crop as a share of the contract's."""
    learning_rate: float = Field(default=5e-3, ge=1e-6, le=1.0)
    """Peak rate of the decoder; the pretrained backbone takes a quarter of it."""
    weight_decay: float = Field(default=0.02, ge=0, le=1.0)
    network: Size | Scale = "small"
    """Its size by name, or described."""
    lovasz: float = Field(default=0.5, ge=0, le=10.0)
    """Weight of the Lovász loss, which lowers what IoU counts, beside the cross-entropy."""
    teacher: str | None = None
    """Digest of the weights of the network that teaches this one, where one does."""
    distillation: float = Field(default=1.0, ge=0, le=10.0)
    """Weight of the divergence from the teacher's chances."""
    teacher_scale: float = Field(default=1.0, ge=0.5, le=4.0)
    """How much larger the teacher sees a crop than the network does."""
    start: str | None = None
    """Digest of the weights that training began with, where they are another run's."""
    offsets: bool = True
    """Whether the classes' logits are shifted, at the end, to the highest IoU on training pictures."""
    scale_min: float = Field(default=0.5, ge=0.1, le=1.0)
    scale_max: float = Field(default=2.0, ge=1.0, le=8.0)
    """Random scale of a training image before it is cropped."""
    colour: float = Field(default=1.0, ge=0, le=2.0)
    """How far brightness, contrast, saturation and hue of a crop are moved; 1 is up to 40 % of the first two."""
    balance: float = Field(default=0.4, ge=0, le=1.0)
    """Power of (median frequency / frequency) that weighs a class in the cross-entropy; 0 weighs all alike."""
    robust: float = Field(default=0.0, ge=0, le=1)
    """Share of the crops that are degraded so that corrupted photos cost less."""
    rare: float = Field(default=0.5, ge=0, le=1)
    """Share of the crops that are placed over a pixel of a rare class."""
    paste: float = Field(default=0.5, ge=0, le=1)
    """Share of the crops onto which another crop's rare classes are pasted, where they lie in it: Ghiasi et al., Simple
    Copy-Paste, CVPR 2021, and Olsson et al., ClassMix, WACV 2021."""
    auxiliary: float = Field(default=0.4, ge=0, le=10.0)
    """Weight of the auxiliary head's loss."""
    ema: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the averaged weights, per step, once warm."""
    precision: Precision = "fp32"
    """What the network computes in while it learns; weights, losses and batch statistics stay in fp32."""
    synthetic: float = Field(default=0.0, ge=0, le=1)
    """Frames of the built-in street camera per real image; needs its classes."""
    score_every: int = Field(default=5, ge=1)
    pretrained: bool = True
    frozen: int = Field(default=2, ge=0, le=7)
    """Leading stages of a pretrained backbone that stay as they came, with the stem: at the highest resolution, they
    are the costly ones to train."""

    @classmethod
    def of(cls, **settings: Any) -> TrainConfig:
        """Validate `settings`. Raises `TrainError` that names the first setting that is unknown or out of range."""
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(str(part) for part in first["loc"])
            raise TrainError(
                f"setting {name} is {first.get('input')!r}", expected=first["msg"], fix=f"choose another {name}"
            ) from None

    @property
    def scale(self) -> Scale:
        return self.network if isinstance(self.network, Scale) else SIZES[self.network]

    @property
    def crop_hw(self) -> tuple[int, int]:
        """Training crop, each side a multiple of 32."""
        return (
            max(32, round(self.height * self.crop / 32) * 32),
            max(32, round(self.width * self.crop / 32) * 32),
        )

    def document(self) -> dict[str, Any]:
        """As plain JSON values."""
        return self.model_dump(mode="json")
