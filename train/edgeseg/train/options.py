"""The flags of `edgeseg train`: those of the recipe, which a run records, and those of how it is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from edgeseg.train.config import Precision, TrainConfig
from edgeseg.train.samples import ENOUGH_STEPS
from edgeseg.train.sizes import SIZES, Scale, Size, read_scale

_DEFAULTS = TrainConfig()
_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Network(click.ParamType[Any]):
    """The name of a size, or a TOML file that describes one."""

    name = "NAME|FILE.toml"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size | Scale:
        if value in SIZES:
            return value  # type: ignore[no-any-return]
        if not str(value).endswith(".toml"):
            self.fail(f"{value!r} is none of {', '.join(SIZES)}, and no TOML file", param, ctx)
        return read_scale(Path(value))


def _parse_size(ctx: click.Context, param: click.Parameter, size: str) -> str:
    """`512x384` → settings height 384 and width 512."""
    try:
        ctx.params["width"], ctx.params["height"] = (int(part) for part in size.lower().split("x"))
    except ValueError:
        raise click.BadParameter(f"{size!r} is not WIDTHxHEIGHT, like 512x384") from None
    return size


def _none_by_name(ctx: click.Context, param: click.Parameter, value: str) -> str | None:
    return None if value == "none" else value


def _number(name: str, help: str) -> Callable[[_Command], _Command]:
    default = getattr(_DEFAULTS, name)
    return click.option(
        f"--{name.replace('_', '-')}", type=type(default), default=default, show_default=True, help=help
    )


def _network(name: str, help: str, *, multiple: bool = False) -> Callable[[_Command], _Command]:
    kind = click.Path(path_type=Path)
    return click.option(f"--{name}", type=kind, metavar="RUN|BUNDLE", multiple=multiple, help=help)


_RECIPE = (
    click.option(
        "--split", "splits", multiple=True, default=_DEFAULTS.splits, show_default=True, help="Learn from it."
    ),
    click.option(
        "--select",
        default=_DEFAULTS.select,
        callback=_none_by_name,
        show_default=True,
        help="Split to score on; `none` for none.",
    ),
    click.option(
        "--epochs",
        type=int,
        show_default=f"{_DEFAULTS.epochs}, more where that is less than {ENOUGH_STEPS} steps",
        help="Passes over the data.",
    ),
    _number("batch", "Images a step, of all processes together."),
    click.option(
        "--network",
        type=_Network(),
        default=_DEFAULTS.network,
        show_default=True,
        help="nano, small, medium or a file.",
    ),
    click.option(
        "--size",
        default=f"{_DEFAULTS.width}x{_DEFAULTS.height}",
        callback=_parse_size,
        expose_value=False,
        show_default=True,
        help="Input, WIDTHxHEIGHT.",
    ),
    click.option(
        "--fit",
        type=click.Choice(["stretch", "letterbox", "crop"]),
        default=_DEFAULTS.fit,
        show_default=True,
        help="How frames of another shape are brought to the input.",
    ),
    _number("learning_rate", "At its peak."),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        default=_DEFAULTS.precision,
        show_default=True,
        help="What is computed in while learning; fp16 and bf16 are for GPUs.",
    ),
    _number("crop", "Side of a training crop, as a share of the input's."),
    _number("scale_min", "Smallest random scale."),
    _number("scale_max", "Largest random scale."),
    _number("colour", "How far colours are moved."),
    _number("robust", "Share of crops that are degraded, for robustness."),
    _number("balance", "How much more rare classes weigh."),
    _number("rare", "Share of crops over rare classes."),
    _number("paste", "Share of crops that get rare things of another."),
    _number("lovasz", "Weight of the Lovász loss."),
    _number("auxiliary", "Weight of the auxiliary head's loss."),
    _network("teacher", "Learn from this network's chances too."),
    _number("distillation", "How much of --teacher."),
    _number("teacher_scale", "How much larger --teacher sees each crop."),
    click.option(
        "--offsets/--no-offsets",
        default=_DEFAULTS.offsets,
        show_default=True,
        help="Shift the classes at the end, to the highest IoU.",
    ),
    _number("ema", "Decay of the averaged weights."),
    _number("seed", "Of weights, order, augmentation."),
    _number("synthetic", "Street camera frames per image."),
    _number("score_every", "In epochs."),
    _number("frozen", "Leading stages of the backbone, with the stem, that are not trained."),
    click.option(
        "--pretrained/--from-scratch",
        default=_DEFAULTS.pretrained,
        show_default=True,
        help="Begin with ImageNet weights.",
    ),
    _network(
        "start-from",
        "Begin with its weights, where they fit; a shipped network's name will do. Several: their mean.",
        multiple=True,
    ),
)

_RUN = (
    click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint."),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="auto is a GPU where PyTorch can use one.",
    ),
    click.option(
        "--channels-last/--no-channels-last", default=True, show_default=True, help="How pictures lie in memory."
    ),
    click.option(
        "--workers", type=click.IntRange(min=0), default=1, show_default=True, help="Processes that make samples."
    ),
    click.option(
        "--cache/--no-cache", default=True, show_default=True, help="Keep decoded pictures in ~/.cache/edgeseg/train."
    ),
)


def recipe_options(command: _Command) -> _Command:
    """Add the settings of `TrainConfig` as flags of the same names."""
    return _add(_RECIPE, command)


def run_options(command: _Command) -> _Command:
    """Add resume, device, channels_last, workers and cache."""
    return _add(_RUN, command)


def _add(options: tuple[Callable[[_Command], _Command], ...], command: _Command) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command
