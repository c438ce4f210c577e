"""The network's shapes, its pretrained weights and the folding of batch norms."""

from __future__ import annotations

import copy
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import nn

from edgeseg.runtime.errors import TrainError
from edgeseg.train.backbone import ConvNorm, Lite
from edgeseg.train.network import SegmentationNetwork, enlarge_mask, fold_batch_norms, mask_of
from edgeseg.train.sizes import SIZES, Scale, Size, read_scale, scale_by


@pytest.fixture(scope="module")
def network() -> SegmentationNetwork:
    torch.manual_seed(0)
    built = SegmentationNetwork(5)
    built.backbone.load_pretrained()
    return built.eval()


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_logits_come_at_stride_2_and_the_auxiliary_ones_at_16_in_every_size(size: Size) -> None:
    built = SegmentationNetwork(5, size=size).eval()
    assert built(torch.zeros(2, 3, 64, 96)).shape == (2, 5, 32, 48)
    main, auxiliary = built.forward_training(torch.zeros(2, 3, 64, 96), built.draw_kept([0, 1]))
    assert (main.shape, auxiliary.shape) == ((2, 5, 32, 48), (2, 5, 4, 6))


@torch.no_grad()
def test_mask_is_the_argmax_of_the_cell_that_holds_the_pixel() -> None:
    logits = torch.zeros(1, 3, 2, 3)
    logits[0, 2, 0, 1] = logits[0, 1, 1, 2] = 1.0
    expected = torch.tensor([[0, 2, 0], [0, 0, 1]])
    assert torch.equal(mask_of(logits, (2, 3))[0], expected.float())
    assert torch.equal(mask_of(logits, (8, 12))[0], expected.repeat_interleave(4, 0).repeat_interleave(4, 1).float())


@given(cells=arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3)))
def test_quarter_of_a_cell_takes_the_class_that_both_its_neighbours_have(cells: npt.NDArray[np.uint8]) -> None:
    found = enlarge_mask(torch.from_numpy(cells)[None, None].float())[0, 0].numpy()
    assert found.shape == (2 * cells.shape[0], 2 * cells.shape[1])
    around = np.pad(cells, 1, mode="edge")  # beyond the border lies what is at it
    for (row, column), value in np.ndenumerate(found):
        y, x = row // 2 + 1, column // 2 + 1
        beside = {around[y + (1 if row % 2 else -1), x], around[y, x + (1 if column % 2 else -1)]}
        assert value == (beside.pop() if len(beside) == 1 else around[y, x])


def test_outlines_come_nearer_to_the_truth_than_cells_are() -> None:
    """Of ellipses, sampled once a cell, a quarter fewer pixels at least are misnamed than by the nearest cell."""
    rng = np.random.default_rng(0)
    plain = smooth = 0
    for _ in range(50):
        centre, axes, angle = rng.uniform(24, 40, (2, 1, 1)), rng.uniform(5, 22, (2, 1, 1)), rng.uniform(0, np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        truth, cells = (
            (np.square(np.tensordot(turn, at - centre, 1) / axes).sum(axis=0) < 1)
            for at in (np.mgrid[:64, :64] + 0.5, np.mgrid[:32, :32] * 2 + 1.0)
        )
        plain += int((cells.repeat(2, 0).repeat(2, 1) != truth).sum())
        enlarged = enlarge_mask(torch.from_numpy(cells.astype(np.float32))[None, None])
        smooth += int((enlarged[0, 0].numpy().astype(bool) != truth).sum())
    assert smooth < 0.75 * plain


@pytest.mark.parametrize(
    ("size", "channels"),
    [("nano", (48, 40, 112)), ("small", (24, 40, 112, 192)), ("medium", (24, 48, 120, 208))],
)
@torch.no_grad()
def test_features_come_at_strides_4_to_16_or_32(size: Size, channels: tuple[int, ...]) -> None:
    features = SegmentationNetwork(5, size=size).eval().backbone(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape[1:]) for f in features] == [
        (width, 16 >> level, 24 >> level) for level, width in enumerate(channels)
    ]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_takes_its_pretrained_weights_and_the_larger_one_has_more(size: Size) -> None:
    torch.manual_seed(0)
    built = SegmentationNetwork(5, size=size)
    before = [p.clone() for p in built.backbone.stages.parameters()]
    built.backbone.load_pretrained()
    assert not any(map(torch.equal, before, built.backbone.stages.parameters()))
    counts = [sum(p.numel() for p in SegmentationNetwork(5, size=each).parameters()) for each in SIZES]
    assert counts == sorted(counts) and counts[-1] <= 4_000_000


@pytest.mark.parametrize("dense_stem", [None, (16, 48)])
@torch.no_grad()
def test_fused_stage_is_dense_and_the_others_take_their_pretrained_weights(dense_stem: tuple[int, int] | None) -> None:
    built = Lite(lite=0, dense_stem=dense_stem, fused=[3])
    before = {name: value.clone() for name, value in built.state_dict().items()}
    built.load_pretrained()
    names = {name for name, value in built.named_parameters() if torch.equal(value, before[name])}
    at = f"stages.{2 - built.first}."
    kept = (at, "stem.") if dense_stem else (at,)
    assert names == {name for name, _ in built.named_parameters() if name.startswith(kept)}
    assert all(m.groups == 1 for m in built.stages[2 - built.first].modules() if isinstance(m, nn.Conv2d))
    plain = Lite(lite=0, dense_stem=dense_stem)
    x = torch.zeros(1, 3, 64, 96)
    assert [f.shape for f in built.eval()(x)] == [f.shape for f in plain.eval()(x)]
    built.freeze(6)
    frozen = {name for name, value in built.named_parameters() if not value.requires_grad}
    expected = () if dense_stem else ("stem.", "stages.0.", "stages.1.")
    assert frozen == {name for name, _ in built.named_parameters() if expected and name.startswith(expected)}


def test_sizes_are_steps_of_one_rule_and_the_next_step_is_larger_still() -> None:
    assert list(SIZES.values()) == [scale_by(step) for step in (1, 2, 3)]
    counts = [sum(p.numel() for p in SegmentationNetwork(5, size=scale_by(n)).parameters()) for n in range(1, 5)]
    assert counts == sorted(set(counts))


def test_size_described_in_a_file_is_the_one_of_the_same_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[network]\nlite = 0\ntrimmed = 2\nwidth = 64\nfine = 32\n")
    assert read_scale(path) == SIZES["small"]
    path.write_text("[network]\nlite = 0\nstages = 5\ntrimmed = 1\nwidth = 32\nfine = 32\ndense_stem = [16, 48]\n")
    assert read_scale(path) == SIZES["nano"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[network]\nlite = 0\nwidth = 63\nfine = 32\n", r"width: .*multiple of 8"),
        (
            "[network]\nlite = 0\nstages = 5\nwidth = 32\nfine = 32\nfused = [6]\n",
            r"fused: .*no stage 6, expected 1 … 5",
        ),
        (
            "[network]\nlite = 0\nwidth = 32\nfine = 32\ndense_stem = [16, 48]\nfused = [2]\n",
            r"fused: .*no stage 2, expected 3 … 6",
        ),
        ("[network]\nlite = 1\nwidth = 64\nfine = 32\n", "lite: "),
        ("[network]\nlite = 0\nwidth = 64\nfine = 32\ndepth = 3\n", "depth: "),
        ("[net]\nlite = 0\n", "lite: Field required"),
        ("[network\n", "is not TOML"),
        (None, "No such file"),
    ],
)
def test_file_that_describes_no_size_is_refused_by_its_key(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(TrainError, match=message):
        read_scale(path)


def test_dropout_of_a_sample_does_not_depend_on_its_batch() -> None:
    built = SegmentationNetwork(5, size=Scale(lite=0, width=32, fine=512), dropout=0.25)
    kept = built.draw_kept([7, 8, 9])
    assert torch.equal(kept[1], built.draw_kept([8])[0]) and not torch.equal(kept[0], kept[1])
    assert set(kept.flatten().tolist()) == {0.0, torch.tensor(4 / 3).item()}
    assert 0.2 < float((kept == 0).float().mean()) < 0.3


@torch.no_grad()
def test_pretrained_backbone_knows_a_drawn_disc_from_noise() -> None:
    """ImageNet features answer to shapes: a fresh backbone's features barely tell a disc from flat grey."""
    disc = np.zeros((64, 64, 3), np.uint8)
    cv2.circle(disc, (32, 32), 20, (30, 60, 220), -1)
    flat = np.full_like(disc, disc.mean())

    def difference(backbone: Lite) -> float:
        inputs = (torch.from_numpy(np.stack([disc, flat])).permute(0, 3, 1, 2).float() - 127) / 128
        last = backbone(inputs)[-1]
        return float((last[0] - last[1]).norm() / last.norm())

    torch.manual_seed(1)
    fresh, pretrained = Lite().eval(), Lite().eval()
    pretrained.load_pretrained()
    assert difference(pretrained) > 2 * difference(fresh)


@torch.no_grad()
def test_folded_network_gives_the_same_logits_with_no_batch_norm_left(network: SegmentationNetwork) -> None:
    torch.manual_seed(2)
    unfolded = copy.deepcopy(network)
    for module in unfolded.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    folded = copy.deepcopy(unfolded)
    fold_batch_norms(folded)
    x = torch.randn(1, 3, 64, 96)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), unfolded(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "before", "after"), [(3, 0, 1), (5, 1, 2)])
@torch.no_grad()
def test_stride_two_pads_as_tensorflow_does(kernel: int, before: int, after: int) -> None:
    """An even input under stride 2 takes its odd padding at the bottom and right."""
    torch.manual_seed(3)
    layer = ConvNorm(2, 4, kernel, stride=2).eval()
    layer.fold()
    conv = next(m for m in layer if isinstance(m, nn.Conv2d))
    x = torch.randn(1, 2, 8, 8)
    padded = nn.functional.pad(x, (before, after, before, after))
    torch.testing.assert_close(layer(x), nn.functional.conv2d(padded, conv.weight, conv.bias, stride=2))


def test_every_operator_is_one_that_tensorrt_runs_in_int8(network: SegmentationNetwork) -> None:
    allowed = (nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.ZeroPad2d, nn.Identity)
    leaves = [m for m in network.modules() if not list(m.children())]
    assert {type(m).__name__ for m in leaves if not isinstance(m, allowed)} == set()
