"""A dense stem comes to give what the pretrained layers give, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgeseg.runtime.street import StreetCamera
from edgeseg.train import stem
from edgeseg.train.backbone import EARLY_STAGES, Lite
from edgeseg.train.samples import to_network


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem, "STEPS", 60)


def _nano() -> Lite:
    torch.manual_seed(0)
    backbone = Lite(lite=0, stages=5, dense_stem=(16, 48))
    backbone.load_pretrained()
    return backbone


def _distance(backbone: Lite, image: np.ndarray) -> float:
    teacher = Lite(lite=0, stages=EARLY_STAGES)
    teacher.load_pretrained()
    x = to_network(image)[None]
    with torch.no_grad():
        wanted = teacher.eval()(x)[0]
        given = backbone.stem.eval()(x)[1]
    return float((given - wanted).square().mean() / wanted.var())


@pytest.mark.usefixtures("few_steps")
def test_stem_nears_what_it_stands_in_for_on_a_picture_that_it_has_not_seen() -> None:
    camera, backbone = StreetCamera(size_hw=(128, 160)), _nano()
    before = _distance(backbone, camera.render(500)[0])
    steps: list[None] = []
    left = stem.imitate_stem(
        backbone, [camera.render(index)[0] for index in range(4)], seed=0, on_step=lambda: steps.append(None)
    )
    assert len(steps) == 60
    assert left < 0.85 and _distance(backbone, camera.render(500)[0]) < 0.97 * before


@pytest.mark.usefixtures("few_steps")
def test_same_seed_gives_the_same_stem() -> None:
    images = [StreetCamera(size_hw=(128, 160)).render(0)[0]]
    stems = []
    for _ in range(2):
        backbone = _nano()
        stem.imitate_stem(backbone, images, seed=3)
        stems.append(backbone.stem.state_dict())
    assert all(torch.equal(one, other) for one, other in zip(*(s.values() for s in stems), strict=True))
