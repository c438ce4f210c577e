"""`edgeseg robustness`: score a network on photos that were corrupted or attacked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from edgeseg.runtime import evaluate as scoring
from edgeseg.runtime.commands.common import console, json_option, progress, write_document
from edgeseg.runtime.commands.evaluate import open_network
from edgeseg.runtime.commands.options import backend_option
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.dataset_bad_pairs import BadPairs
from edgeseg.runtime.environment import environment
from edgeseg.runtime.errors import TrainError
from edgeseg.train.robustness.attack import EPSILON, KINDS, Attack
from edgeseg.train.robustness.corruptions import CORRUPTIONS, SEVERITIES
from edgeseg.train.robustness.study import ATTACKS, Study, plan_cells
from edgeseg.train.run import load_run


@click.command(epilog="Example: edgeseg robustness street my-dataset --split test --limit 40")
@click.argument("network", metavar="BUNDLE|RUN")
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option("--split", required=True, metavar="S", help="The split whose photos are used.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Use N photos, spread evenly; default all.")
@click.option(
    "--only",
    "names",
    multiple=True,
    type=click.Choice([*CORRUPTIONS, *ATTACKS]),
    metavar="NAME",
    help="Only this corruption or attack; may be repeated. Default: every one that can be done.",
)
@click.option(
    "--attack-with",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="RUN",
    help="The training run that a bundle was made of: attacks need gradients, and its graphs have none.",
)
@click.option("--precision", default="auto", show_default=True, help="Which of a bundle's graphs to score.")
@backend_option
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads for a bundle's inference.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of noise, weather and starts.")
@click.option("--resume", is_flag=True, help="Go on from the scores that --json holds already.")
@json_option
def robustness(
    network: str,
    dataset: Path,
    split: str,
    limit: int | None,
    names: tuple[str, ...],
    attack_with: Path | None,
    seed: int,
    resume: bool,
    json_path: Path | None,
    **engine: Any,
) -> None:
    """Score a bundle, a shipped model or a training run on DATASET's photos after corrupting or attacking them.

    Thirteen common corruptions at five severities, and two attacks of 2 grey levels: docs/robustness.md says what each
    is. --json is written after every score.
    """
    if resume and json_path is None:
        raise click.UsageError("--resume needs --json FILE: the scores are there")
    loaded = load_dataset(dataset)
    pairs = scoring.spread(loaded.pairs(split), limit)
    with open_network(network, **engine) as opened:
        contract = opened.predictor.contract
        scoring.check_classes(contract, loaded)
        attacked = attack_with or (Path(network) if scoring.is_run(Path(network)) else None)
        weights, attacks = ("", {}) if attacked is None else _open_attacks(attacked, contract, seed)
        chosen = names or (*CORRUPTIONS, *attacks)
        if attacked is None and not set(chosen).isdisjoint(ATTACKS):
            raise click.UsageError("attacks on a bundle need --attack-with RUN")
        facts = {
            "split": split,
            "images": len(pairs),
            "seed": seed,
            "dataset": {"name": loaded.name, "digest": loaded.digest(split)},
            **opened.origin,
            **({"attacked_weights": weights} if attacks else {}),
        }
        study = Study(facts=facts, cells=plan_cells(chosen))
        if resume and json_path is not None:
            study.resume(json_path)

        machine = environment()
        bad = BadPairs(len(pairs), report=lambda line: console.print(line, markup=False, soft_wrap=True))

        def keep() -> None:
            write_document(json_path, "robustness", **study.document(), **bad.document(), environment=machine)

        with progress(f"corrupting {split}", len(study.cells) * len(pairs)) as advance:
            study.run(
                opened.predictor,
                loaded,
                pairs,
                attacks,
                seed=seed,
                on_unreadable=bad.add,
                keep=keep,
                advance=advance,
            )
        keep()
    _print_study(study, f"{network} {opened.origin['precision']} on {len(pairs)} photos of {loaded.name}, {split}")


def _open_attacks(run: Path, contract: Contract, seed: int) -> tuple[str, dict[str, scoring.Alter]]:
    """Return the digest of the run's weights, and the attacks by name."""
    attacked = load_run(run)
    # A graph's second output is the export's affair.
    if attacked.contract != contract.model_copy(update={"confidence_cell": None}):
        raise TrainError(
            f"{run} has another contract than the network that is scored",
            expected="the run that it was made of",
            fix="name that run with --attack-with",
        )
    return attacked.weights, {kind: Attack(attacked.network, contract, kind, seed=seed) for kind in KINDS}


def _print_study(study: Study, title: str) -> None:
    document = study.document()
    table = Table("", *map(str, SEVERITIES), "drop %", title=f"mIoU: {title}")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, found in document["corruptions"].items():
        scores = [f"{found['miou'][str(at)]:.1f}" if str(at) in found["miou"] else "" for at in SEVERITIES]
        table.add_row(name, *scores, f"{found['drop']:.1f}" if "drop" in found else "")
    for name, found in document["attacks"].items():
        table.add_row(f"{name}, {EPSILON}/255", f"{found['miou']:.1f}", *[""] * 4, f"{found['drop']:.1f}")
    console.print(table)
    console.print(f"clean mIoU {document['miou']:.2f} %")
    if "mean_relative_drop" in document:
        groups = ", ".join(f"{group} {drop:.1f}" for group, drop in document["group_drops"].items())
        console.print(f"mean relative drop {document['mean_relative_drop']:.1f} % ({groups})")
