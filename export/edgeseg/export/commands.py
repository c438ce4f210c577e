"""`edgeseg export`."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from edgeseg.export.make import Exported, export_bundle
from edgeseg.export.quantise.gate import Limits
from edgeseg.export.quantise.lower import Quantisation
from edgeseg.export.quantise.search import Row
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.manifest import NAME_PATTERN, PRECISIONS, Manifest, Precision, model_name
from edgeseg.train.run import load_run

_PAGE_WIDTH = 200


@click.command(epilog="Example: edgeseg export runs/street --data camvid --out street")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Dataset to compare and score on.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder, or a file that ends in .edgeseg.")
@click.option("--split", default="val", show_default=True, help="Split of --data to compare and score on.")
@click.option(
    "--attach",
    "attachments",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Carry FILE in the bundle: a model card, a licence. May be repeated.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    multiple=True,
    help="Graph to put in the bundle beside fp32. May be repeated; only fp32 is quick.  [default: all]",
)
@click.option(
    "--max-drop", type=float, default=0.5, show_default=True, metavar="POINTS", help="mIoU that INT8 may lose to fp32."
)
@click.option(
    "--max-class-drop", type=float, default=2.0, show_default=True, metavar="POINTS", help="IoU a class may lose."
)
@click.option(
    "--max-raised",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    metavar="LAYERS",
    help="Convolutions of a graph that may leave INT8 to stay within these.",
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="IMAGES",
    help="Pictures of the run's own training splits to observe ranges on.",
)
@click.option(
    "--holdout-images",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    metavar="IMAGES",
    help="Others of them to compare ways of quantising on.",
)
@click.option(
    "--qat",
    "qat_epochs",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="EPOCHS",
    help="Also train with INT8's rounding in place, for so many passes over the run's training splits.",
)
@click.option(
    "--golden-real",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="IMAGES",
    help="Of the held-out pictures, how many to carry as golden frames. They can be seen by all who get the bundle: "
    "none unless asked for, as the dataset's licence must allow it.",
)
@click.option(
    "--confidence/--no-confidence",
    default=True,
    show_default=True,
    help="Whether the graphs also tell how sure they are, once for each 8x8 pixels.",
)
@click.option("--name", help="The bundle's own name.  [default: --out without its ending]")
@json_option
def export(
    run: Path,
    data: Path,
    out: Path,
    split: str,
    attachments: tuple[Path, ...],
    precisions: tuple[Precision, ...],
    max_drop: float,
    max_class_drop: float,
    max_raised: int,
    calibration_images: int,
    holdout_images: int,
    qat_epochs: int,
    golden_real: int,
    confidence: bool,
    name: str | None,
    json_path: Path | None,
) -> None:
    """Make a bundle of RUN, a folder that `edgeseg train` left.

    The bundle holds the graph with pre- and postprocessing inside in fp32, fp16, INT8 for TensorRT and INT8 for ONNX
    Runtime's CPU kernels, golden frames and a manifest. The fp32 graph must agree with the network on 99.9 % of the
    pixels of 50 images, and INT8 may lose no more points of --split than --max-drop and --max-class-drop allow; if
    not, no bundle is left.
    """
    name = out.stem.lower() if name is None else name
    if not re.fullmatch(NAME_PATTERN, name):
        raise click.BadParameter(
            f"{name!r} is no bundle's name: lower-case letters, digits, '.', '_' and '-'", param_hint="--name"
        )
    started = time.monotonic()
    exported = export_bundle(
        load_run(run),
        load_dataset(data),
        split=split,
        name=name,
        out=out,
        attachments=attachments,
        quantisation=Quantisation(
            precisions=precisions or PRECISIONS,
            limits=Limits(drop=max_drop, class_drop=max_class_drop),
            max_raised=max_raised,
            calibration_images=calibration_images,
            holdout_images=holdout_images,
            qat_epochs=qat_epochs,
        ),
        golden_real=golden_real,
        confidence=confidence,
    )
    seconds = time.monotonic() - started
    _say(exported, out, seconds)
    write_document(
        json_path,
        "export",
        bundle={"name": name, "manifest_sha256": exported.manifest_sha256},
        precision="fp32",
        **exported.score.model_dump(mode="json", exclude_none=True),
        stages={
            precision: stage.model_dump(mode="json", exclude_none=True)
            for precision, stage in exported.manifest.stages.items()
        },
        tried=[row.document() for row in exported.rows],
        golden=exported.manifest.golden.agreement,
        parity={"agreement": exported.parity.agreement, "images": exported.parity.images},
        seconds=round(seconds, 1),
        environment=environment(),
    )


def _say(exported: Exported, out: Path, seconds: float) -> None:
    parity = exported.parity
    megabytes = sum(entry.size for entry in exported.manifest.files.values()) / 1e6
    agreement = math.floor(parity.agreement * 1e5) / 1e3  # never rounded up to a perfect 100
    if exported.rows:
        _print(tried_table(exported.rows))
    console.print(f"graph and network agree on {agreement:.3f} % of the pixels of {parity.images} images")
    _print(stages_table(exported.manifest))
    console.print(f"{len(exported.manifest.golden.frames)} golden frames")
    console.print(f"wrote {out}: bundle {exported.manifest.name}, {megabytes:.1f} MB, in {seconds:.0f} s")


def _print(table: Table) -> None:
    """A terminal shows it as wide as it is; elsewhere, as in a page of documentation, no cell is broken."""
    wide = console if console.is_terminal else Console(width=_PAGE_WIDTH, highlight=False)
    wide.print(table)


def tried_table(rows: Sequence[Row]) -> Table:
    """Return a Markdown table of the ways of quantising that were tried on the calibration hold-out."""
    table = _table(f"tried on {rows[0].images} held-out images", "graph", "estimator", "weights", "computed", "raised")
    for heading in ("mIoU", "lost", "worst class", "pixels as fp32", "time to fp32"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            *(row.precision, row.estimator, row.weights, row.arithmetic, ", ".join(row.raised)),
            *(f"{row.miou:.2f}", f"{row.drop:+.2f}", f"{row.class_drop:+.2f} {row.worst_class}", _share(row.agreement)),
            "" if row.time is None else f"{row.time:.2f}",
        )
    return table


def stages_table(manifest: Manifest) -> Table:
    """Return a Markdown table of what each graph of a bundle scored."""
    stages = manifest.stages
    table = _table(f"scored on {stages['fp32'].images} images of {stages['fp32'].split}", "graph")
    for heading in ("mIoU", "lost", "worst class", "pixels as its origin", "of fp32's bytes"):
        table.add_column(heading, justify="right")
    table.add_column("in higher precision")
    sizes = {precision: manifest.files[model_name(precision)].size for precision in stages}
    for precision, stage in stages.items():
        table.add_row(
            precision,
            "" if stage.miou is None else f"{stage.miou:.2f}",
            "" if stage.drop is None else f"{stage.drop:+.2f}",
            "" if stage.class_drop is None else f"{stage.class_drop:+.2f}",
            "" if stage.pixel_agreement is None else _share(stage.pixel_agreement),
            f"{sizes[precision] / sizes['fp32']:.2f}",
            "; ".join(f"{name} in {why.precision} ({why.reason})" for name, why in stage.raised.items()),
        )
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", box=MARKDOWN)


def _share(share: float) -> str:
    return f"{math.floor(share * 1e4) / 1e2:.2f} %"  # never rounded up to a perfect 100
