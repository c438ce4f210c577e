"""The whole chain in small: a dataset becomes a network, the network a bundle, the bundle live masks."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from click.testing import CliRunner

from edgeseg.runtime.cli import main
from edgeseg.runtime.contract import Fitter
from edgeseg.runtime.image_files import read_image
from edgeseg.train.predict import open_run_predictor


def _edgeseg(*words: str | Path | int) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    return result.output


def _write_video(path: Path, photos: list[Path], size_wh: tuple[int, int]) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size_wh)
    for photo in photos:
        writer.write(cv2.resize(read_image(photo), size_wh))
    writer.release()


def test_dataset_becomes_live_masks_that_agree_with_the_trained_network(street_dataset: Path, tmp_path: Path) -> None:
    run, bundle, masks = tmp_path / "run", tmp_path / "tiny", tmp_path / "masks"
    _edgeseg("data", "check", street_dataset)
    _edgeseg("train", street_dataset, "--out", run, "--epochs", 2, "--batch", 5, "--size", "96x64")
    # Two epochs on ten pictures: what INT8 loses of that is chance.
    _edgeseg("export", run, "--data", street_dataset, "--out", bundle, "--max-drop", 100, "--max-class-drop", 100)

    photos = sorted((street_dataset / "images" / "val").iterdir())
    clip = tmp_path / "clip.mp4"
    _write_video(clip, photos, (160, 120))
    figures = tmp_path / "run.json"
    sinks = ("--sink", f"masks:{masks}", "--sink", f"video:{tmp_path / 'out.mp4'}")
    _edgeseg("run", bundle, "--source", clip, *sinks, "--precision", "fp32", "--json", figures)

    document = json.loads(figures.read_text())
    assert (document["frames"], document["dropped"], document["precision"]) == (len(photos), 0, "fp32")
    assert document["frame_age_ms"]["p50"] >= document["inference_ms"]["p50"] > 0

    # The masks on disk are what the torch network says of the very frames that the clip decodes to.
    reader, agreements = cv2.VideoCapture(str(clip)), []
    predictor = open_run_predictor(run)
    fitter = Fitter(predictor.contract, (120, 160))
    for path in sorted(masks.iterdir()):
        frame = reader.read()[1].astype(np.uint8, copy=False)
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert mask is not None and mask.shape == (120, 160)
        agreements.append((fitter.unfit(predictor.infer(fitter.fit(frame))[0]) == mask).mean())
    assert len(agreements) == len(photos) and min(agreements) >= 0.999

    overlays = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert int(overlays.get(cv2.CAP_PROP_FRAME_COUNT)) == len(photos) and overlays.read()[0]

    scores = tmp_path / "scores.json"
    _edgeseg("evaluate", bundle, street_dataset, "--split", "val", "--precision", "fp32", "--json", scores)
    _edgeseg("evaluate", run, street_dataset, "--split", "val", "--json", tmp_path / "torch.json")
    onnx, torch = (json.loads(path.read_text())["miou"] for path in (scores, tmp_path / "torch.json"))
    assert abs(onnx - torch) < 0.1

    _edgeseg("evaluate", bundle, street_dataset, "--split", "val", "--json", scores)
    document = json.loads(scores.read_text())
    # The fastest graph for this machine, with the score that the bundle says it has.
    assert document["precision"] == "int8-cpu"
    assert document["miou"] == json.loads((bundle / "manifest.json").read_text())["stages"]["int8-cpu"]["miou"]
