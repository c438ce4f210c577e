"""`edgeseg data import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.dataset_spec import TRAIN
from edgeseg.runtime.errors import DatasetError
from edgeseg.train.data_import import coco, cvat, labelme, masks, voc, yolo
from edgeseg.train.data_import.assemble import Outcome, Plan, assemble
from edgeseg.train.data_import.mask_values import VOID_NAME, NamedValues, parse_named_values
from edgeseg.train.data_import.notes import Notes
from edgeseg.train.data_import.source import ImageIndex, class_name

READERS = {"coco": coco.read, "voc": voc.read, "labelme": labelme.read, "cvat": cvat.read, "yolo": yolo.read}
MASKS = "masks"
"""The form of plain masks beside their images."""


def _read_lists(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, list[str]] | None:
    lists = {}
    for text in texts:
        split, found, file = text.partition("=")
        if not (split and found and file) or not split.replace("-", "").replace("_", "").isalnum():
            raise click.BadParameter(f"{text!r} is not NAME=FILE")
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(
                f"cannot read {file}: {error}", expected="a text file with a name on each line"
            ) from None
        lists[split] = [line.strip() for line in lines if line.strip()]
    return lists or None


def _read_values(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> list[NamedValues]:
    try:
        return [parse_named_values(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("import", epilog="Example: edgeseg data import export.json --from coco --images photos --out yard")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--from", "form", type=click.Choice([*READERS, MASKS]), required=True, help="Whose labels they are.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The dataset's folder, a new one.")
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the images are, if they are not in SOURCE.",
)
@click.option(
    "--masks", "masks_folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="With --from masks: where they are, if folders' names do not tell.",
)  # fmt: skip
@click.option(
    "--class", "values", multiple=True, metavar="NAME=VALUE", callback=_read_values,
    help=f"With --from masks: a class by its number, range (1-255) or colour (#00ff00); `{VOID_NAME}` is ignored. "
    "Repeatable. Default: a class for each value.",
)  # fmt: skip
@click.option(
    "--unlabelled",
    type=click.Choice(["background", "void"]),
    default="background",
    show_default=True,
    help="What a pixel is that nothing covers.",
)
@click.option(
    "--split", "lists", multiple=True, metavar="NAME=FILE", callback=_read_lists,
    help="A split by a file that names its images, one a line; repeatable. Default: the source's own splits.",
)  # fmt: skip
@click.option(
    "--val-share",
    type=click.FloatRange(0, 0.5),
    default=0.2,
    show_default=True,
    help="Share to hold out as val where the source has none; 0 for none.",
)
@click.option(
    "--val-by",
    type=click.Choice(["time", "hash"]),
    default="time",
    show_default=True,
    help="Hold out blocks of the order of names, or single names by their hash.",
)
@click.option("--name", help="Of the dataset. Default: that of --out.")
@json_option
def import_(
    source: Path,
    form: str,
    out: Path,
    images: Path | None,
    masks_folder: Path | None,
    values: list[NamedValues],
    name: str | None,
    lists: dict[str, list[str]] | None,
    json_path: Path | None,
    **choices: Any,
) -> None:
    """Make a dataset of another tool's labels: SOURCE is the tool's folder or its labels' file.

    What cannot be used is left out, and told in a line for each kind.
    """
    if form != MASKS and (values or masks_folder):
        raise click.UsageError("--class and --masks are for --from masks; other labels name their classes themselves")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DatasetError(f"{out} is there already", expected="a new folder", fix="remove it, or choose another --out")
    if source.is_file() and source.suffix.lower() in (".zip", ".tar", ".gz", ".7z"):
        raise DatasetError(f"{source} is an archive", expected="a folder or a labels' file", fix="unpack it")
    notes = Notes()
    with console.status("reading the labels"):
        if form == MASKS:
            found = masks.read(source, images, masks_folder, values, notes)
        else:
            found = READERS[form](source, ImageIndex.of(images or _root(source), leave_out=voc.is_mask), notes)
    plan = Plan(name=class_name(name or out.resolve().name, "dataset"), lists=lists, **choices)
    with progress("importing", len(found.pictures)) as advance:
        try:
            outcome = assemble(found, out, plan, notes, advance=advance)
        except OSError as error:
            raise DatasetError(
                f"cannot write {out}: {error.strerror or error}", fix="make room, or choose another --out"
            ) from None
    write_document(
        json_path, "data-import", dataset={"name": plan.name}, source=form, **outcome.document(), notes=notes.document()
    )
    _print(out, outcome, notes)


def _root(source: Path) -> Path:
    """Return the folder whose images a labels' file can mean: its own, or the one above a folder of annotations."""
    if source.is_dir():
        return source
    return source.parent.parent if source.parent.name == "annotations" else source.parent


def _print(out: Path, outcome: Outcome, notes: Notes) -> None:
    for line in notes.lines():
        console.print(line, markup=False, soft_wrap=True)
    counts = ", ".join(f"{split} {count}" for split, count in outcome.splits.items())
    shares = ", ".join(f"{name} {share:.1f} %" for name, share in outcome.classes.items())
    console.print(f"{out}: {counts}; {shares}; void {outcome.void:.1f} %", markup=False, soft_wrap=True)
    if len(outcome.splits) == 1 and TRAIN in outcome.splits:
        console.print("no image is held out to choose a network on: see --val-share")
    console.print(f"next: edgeseg data check {out}, then edgeseg data stats {out}", markup=False, soft_wrap=True)
