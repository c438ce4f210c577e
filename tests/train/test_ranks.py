"""Two processes train as one does: gradients, averages, files, and what is said when one of them is lost."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from edgeseg.runtime.cli import main
from edgeseg.train.run import read_checkpoint

# One run of two epochs of two steps; the gradients of each step are noted as the optimiser meets them. Of two processes
# the second alone is asked to stop, after the first epoch, and then they go on.
TRAIN = """
import sys
from pathlib import Path
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from edgeseg.runtime.dataset import load_dataset
from edgeseg.train.config import TrainConfig
from edgeseg.train.loop import Host, Watcher, contract_of, train_run
from edgeseg.train.network import SegmentationNetwork
from edgeseg.train.ranks import join_ranks
from edgeseg.train.run import LoadedRun

# In float64 throughout, so that what is left of a difference is no rounding.
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double

dataset, out = load_dataset(Path(sys.argv[1])), Path(sys.argv[2])
config = TrainConfig(
    height=128, width=128, crop=1.0, batch=5, epochs=2, pretrained=False, select=None, network="nano", teacher="t"
)
torch.manual_seed(9)
taught = SegmentationNetwork(len(dataset.classes), size="nano").eval()
teacher = LoadedRun(network=taught, contract=contract_of(dataset, config), weights="t", metadata={})
gradients = []

def note(optimiser, args, kwargs):
    gradients.append([p.grad.clone() for group in optimiser.param_groups for p in group["params"]])

register_optimizer_step_pre_hook(note)
with join_ranks(torch.device("cpu")) as ranks:
    watcher = Watcher(should_stop=lambda: ranks.rank == 1 and len(gradients) == 2)
    settings = {"host": Host(workers=0), "ranks": ranks, "teacher": teacher}
    try:
        done = train_run(dataset, config, out, watcher=watcher, **settings)
    except KeyboardInterrupt:
        done = train_run(dataset, config, out, resume=True, **settings)
    kept = {"gradients": gradients, "averaged": done.averaged, "losses": [row["loss"] for row in done.history]}
    torch.save(kept, out / f"{ranks.rank}-of-{ranks.count}.pt")
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _train(dataset: Path, out: Path, processes: int) -> list[dict[str, Any]]:
    """What each process noted."""
    out.mkdir()
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(processes)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", TRAIN, str(dataset), str(out)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=800)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [torch.load(out / f"{rank}-of-{processes}.pt", weights_only=True) for rank in range(processes)]


def _distance(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """Of all gradients together, as a share of their length."""
    flat = [torch.cat([g.flatten() for g in side]) for side in (one, other)]
    return float((flat[0] - flat[1]).norm() / flat[0].norm())


@pytest.mark.timeout(900)
def test_gradients_of_two_processes_are_those_of_one_at_the_same_batch(street_dataset: Path, tmp_path: Path) -> None:
    """With class weights, Lovász over the batch, auxiliary head, dropout, distillation and batch norms, in steps of
    five: three samples in one process, two in the other; stopped and resumed. Only the order of sums differs."""
    (alone,) = _train(street_dataset, tmp_path / "one", 1)
    first, second = _train(street_dataset, tmp_path / "two", 2)
    assert len(alone["gradients"]) == len(first["gradients"]) == 4
    for one, shared in zip(alone["gradients"], first["gradients"], strict=True):
        assert _distance(one, shared) < 1e-9
    assert first["losses"] == second["losses"] == pytest.approx(alone["losses"], rel=1e-9)
    for name, value in first["averaged"].items():
        assert torch.equal(value, second["averaged"][name]), name
    assert all(map(torch.equal, first["gradients"][1], second["gradients"][1]))
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["0-of-2.pt", "1-of-2.pt", "checkpoint.pt"]


DIE = """
import os, sys
from edgeseg.train import samples
from edgeseg.runtime.cli import main
if os.environ["RANK"] == "1":
    real = samples.Deal.__iter__
    def deal(self):
        if self.epoch == 1:
            os.kill(os.getpid(), 9)
        return real(self)
    samples.Deal.__iter__ = deal
main()
"""


@pytest.mark.timeout(900)
def test_lost_process_ends_the_others_with_one_line_and_the_run_goes_on_in_one(
    street_dataset: Path, tmp_path: Path
) -> None:
    out, script = tmp_path / "run", tmp_path / "die.py"
    script.write_text(DIE)
    train = ["train", str(street_dataset), "--out", str(out), "--size", "96x64", "--batch", "5", "--from-scratch"]
    train += ["--epochs", "2", "--network", "nano", "--workers", "0"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    died = subprocess.run(
        [*launch, str(_free_port()), str(script), *train],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert died.returncode != 0
    said = [line for line in died.stderr.splitlines() if line.startswith("error:")]
    assert len(said) == 1 and "--resume" in said[0], died.stderr
    assert died.stdout.count("epoch   1/2") == 1
    assert len(read_checkpoint(out).history) == 1
    resumed = CliRunner().invoke(main, [*train, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert len(read_checkpoint(out).history) == 2
