"""`edgeseg export`."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import click

from edgeseg.export.make import Exported, export_bundle
from edgeseg.runtime.commands.common import console, json_option, write_document
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.environment import environment
from edgeseg.runtime.manifest import NAME_PATTERN
from edgeseg.train.run import load_run


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
@click.option("--name", help="The bundle's own name.  [default: --out without its ending]")
@json_option
def export(
    run: Path,
    data: Path,
    out: Path,
    split: str,
    attachments: tuple[Path, ...],
    name: str | None,
    json_path: Path | None,
) -> None:
    """Make a bundle of RUN, a folder that `edgeseg train` left.

    The bundle holds the fp32 graph with pre- and postprocessing inside, golden frames and a manifest. The graph must
    agree with the network on 99.9 % of the pixels of 50 images; if not, no bundle is left.
    """
    name = out.stem.lower() if name is None else name
    if not re.fullmatch(NAME_PATTERN, name):
        raise click.BadParameter(
            f"{name!r} is no bundle's name: lower-case letters, digits, '.', '_' and '-'", param_hint="--name"
        )
    started = time.monotonic()
    exported = export_bundle(
        load_run(run), load_dataset(data), split=split, name=name, out=out, attachments=attachments
    )
    seconds = time.monotonic() - started
    _say(exported, out, seconds)
    write_document(
        json_path,
        "export",
        bundle={"name": name, "manifest_sha256": exported.manifest_sha256},
        precision="fp32",
        **exported.score.model_dump(mode="json", exclude_none=True),
        parity={"agreement": exported.parity.agreement, "images": exported.parity.images},
        seconds=round(seconds, 1),
        environment=environment(),
    )


def _say(exported: Exported, out: Path, seconds: float) -> None:
    score, parity = exported.score, exported.parity
    megabytes = sum(entry.size for entry in exported.manifest.files.values()) / 1e6
    miou = "" if score.miou is None else f"mIoU {score.miou:.2f} on {score.images} images of {score.split}; "
    agreement = math.floor(parity.agreement * 1e5) / 1e3  # never rounded up to a perfect 100
    console.print(f"graph and network agree on {agreement:.3f} % of the pixels of {parity.images} images")
    console.print(f"fp32: {miou}{len(exported.manifest.golden.frames)} golden frames")
    console.print(f"wrote {out}: bundle {exported.manifest.name}, {megabytes:.1f} MB, in {seconds:.0f} s")
