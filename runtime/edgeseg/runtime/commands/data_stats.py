"""`edgeseg data stats`: what a dataset consists of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from rich.table import Table
from rich.text import Text

from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_page import write_page
from edgeseg.runtime.dataset_stats import SplitStats, gather

_SIZES = 3


@click.command(epilog="Example: edgeseg data stats my-dataset --html my-dataset.html")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", "splits", multiple=True, metavar="S", help="Of this split only; repeatable. Default: all.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also draw frequencies, sizes and sample labels over their photos as one page.",
)
@json_option
def stats(dataset: Path, splits: tuple[str, ...], html: Path | None, json_path: Path | None) -> None:
    """Tell class frequencies, image sizes and kinds of each split of DATASET."""
    loaded = load_dataset(dataset)
    chosen = splits or tuple(loaded.splits)
    with progress("reading", sum(len(loaded.pairs(split)) for split in chosen)) as advance:
        found = gather(loaded, chosen, advance)
    if html is not None:
        write_page(html, loaded, found)
    write_document(
        json_path,
        "data-stats",
        dataset={"name": loaded.name, "licence": loaded.licence},
        splits={split: one.document() for split, one in found.items()},
    )
    console.print(_table(loaded.name, loaded.classes, found))
    for split, one in found.items():
        console.print(_images(split, one), markup=False, soft_wrap=True)


def _table(name: str, classes: tuple[str, ...], found: Mapping[str, SplitStats]) -> Table:
    table = Table("class", title=Text(f"{name}: percent of labelled pixels (images)"))
    for split in found:
        table.add_column(Text(split), justify="right")
    for index, label in enumerate(classes):
        cells = [f"{one.shares.get(label, 0):.2f} ({int(one.shown_in[index])})" for one in found.values()]
        table.add_row(Text(label), *cells)
    table.add_row("void, of all", *(f"{one.void:.2f}" for one in found.values()))
    return table


def _images(split: str, one: SplitStats) -> str:
    sizes = [f"{count} of {width}×{height}" for (width, height), count in one.sizes.most_common(_SIZES)]
    if len(one.sizes) > _SIZES:
        sizes.append(f"{len(one.sizes) - _SIZES} more sizes")
    kinds = [f"{count} {kind}" for kind, count in one.kinds.most_common()]
    bad = f"; {one.unreadable} cannot be read: see data check" if one.unreadable else ""
    return f"{split}: {one.images} images, {', '.join(sizes)}; {', '.join(kinds)}{bad}"
