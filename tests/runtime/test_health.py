"""How masks are, told without labels, and the hard frames that a run keeps."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeseg.runtime.bundle import open_bundle
from edgeseg.runtime.cli import main
from edgeseg.runtime.commands.run import parse_bytes
from edgeseg.runtime.contract import Contract
from edgeseg.runtime.dataset import load_dataset
from edgeseg.runtime.errors import SinkError
from edgeseg.runtime.frame import Frame, Image, Mask, Result
from edgeseg.runtime.health.hard_frames import LEAST_MASKS, HardFrames
from edgeseg.runtime.health.monitor import (
    WINDOW_S,
    FadingMean,
    Health,
    HealthMonitor,
    Reference,
    class_areas,
    divergence_bits,
)
from edgeseg.runtime.health.reference import find_reference
from edgeseg.runtime.health.store import FrameStore

NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)


def _result(mask: Mask, index: int, *, period_s: float = 0.04) -> Result:
    frame = Frame(image_bgr=NOISE, id=index, captured_ns=round(index * period_s * 1e9), name=f"frame-{index:06d}")
    return Result(frame=frame, mask=mask, inference_ms=1)


def _health(contract: Contract, masks: list[Mask], **more: Any) -> Health:
    monitor = HealthMonitor(contract, more.pop("reference", None))
    for index, mask in enumerate(masks):
        monitor.see(_result(mask, index, **more))
    health = monitor.health()
    assert health is not None
    return health


def _mask(*rows: int, height: int = 4, width: int = 10) -> Mask:
    """Bands of classes from top to bottom."""
    return np.repeat(np.array(rows, np.uint8), height)[:, None].repeat(width, axis=1)


def test_a_still_picture_neither_changes_nor_flickers(tiny_contract: Contract) -> None:
    health = _health(tiny_contract, [_mask(3, 5)] * 5)
    assert (health.changed, health.flicker, health.areas) == (0, 0, {"road": 50, "tree": 50})


def test_what_changes_and_is_back_flickers_and_what_moves_on_does_not(tiny_contract: Contract) -> None:
    still, other = _mask(3, 5, 5, 5), _mask(3, 3, 5, 5)
    back = _health(tiny_contract, [still, other, still])
    assert back.changed == pytest.approx(25) and back.flicker == pytest.approx(25)
    moved = _health(tiny_contract, [still, other, _mask(3, 3, 3, 5)])
    assert moved.changed == pytest.approx(25) and moved.flicker == 0


def test_an_edge_that_moves_steadily_does_not_flicker(tiny_contract: Contract) -> None:
    masks = []
    for index in range(20):
        mask = np.full((60, 80), 5, np.uint8)
        mask[:, 2 * index : 2 * index + 30] = 8
        masks.append(mask)
    health = _health(tiny_contract, masks)
    assert health.flicker == 0 and health.changed == pytest.approx(5)


@pytest.mark.parametrize("period_s", [1.5, 3600.0])
def test_masks_far_apart_in_time_are_not_compared(tiny_contract: Contract, period_s: float) -> None:
    health = _health(tiny_contract, [_mask(3, 5), _mask(5, 3), _mask(3, 5)], period_s=period_s)
    assert health.changed is None and health.flicker is None


def test_a_new_frame_size_starts_the_comparison_anew(tiny_contract: Contract) -> None:
    masks = [_mask(3, 5), _mask(3, 5), _mask(3, 5, height=6), _mask(3, 5, height=6)]
    assert _health(tiny_contract, masks).changed == 0


def test_pixels_without_a_class_have_no_area(tiny_contract: Contract) -> None:
    ignored = tiny_contract.ignore_index
    assert _health(tiny_contract, [_mask(3, ignored)]).areas == {"road": 100}
    document = _health(
        tiny_contract, [_mask(ignored)], reference=Reference(areas={"road": 1}, origin="test")
    ).document()
    assert document == {"areas": {}}


def test_before_the_first_mask_there_are_no_figures(tiny_contract: Contract) -> None:
    assert HealthMonitor(tiny_contract).health() is None


@pytest.mark.parametrize(
    ("areas", "drift"),
    [({"road": 0.5, "tree": 0.5}, 0.0), ({"road": 3, "tree": 3}, 0.0), ({"sky": 1.0}, 1.0), ({"road": 1.0}, 0.3113)],
)
def test_drift_is_the_divergence_from_the_reference(
    tiny_contract: Contract, areas: dict[str, float], drift: float
) -> None:
    document = _health(tiny_contract, [_mask(3, 5)], reference=Reference(areas=areas, origin="test")).document()
    assert document["area_drift"] == pytest.approx(drift, abs=1e-4) and document["area_reference"] == "test"


_shares = st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda shares: sum(shares) > 0.01).map(np.array)


@given(_shares, _shares)
def test_divergence_is_symmetric_bounded_and_zero_only_of_equals(first: Any, second: Any) -> None:
    found = divergence_bits(first, second)
    assert 0 <= found <= 1 and found == pytest.approx(divergence_bits(second, first), abs=1e-9)
    assert divergence_bits(first, 7 * first) == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=30))
def test_in_a_short_time_the_fading_mean_is_the_mean(values: list[float]) -> None:
    fading = FadingMean()
    for value in values:
        fading.add(value, 5.0)
    assert fading.mean == pytest.approx(np.mean(values)) and fading.deviation == pytest.approx(np.std(values), abs=1e-4)


def test_what_is_long_past_counts_no_more() -> None:
    fading = FadingMean()
    for _ in range(1000):
        fading.add(1.0, 0.0)
    fading.add(0.0, 20 * WINDOW_S)
    assert fading.mean < 1e-5


def test_areas_of_a_large_mask_are_those_of_a_sample(tiny_contract: Contract) -> None:
    mask = np.full((1080, 1920), 3, np.uint8)
    mask[540:] = 5
    areas = _health(tiny_contract, [mask]).areas
    assert areas["road"] == pytest.approx(50, abs=0.5)


def test_the_reference_is_the_golden_masks_where_the_bundle_names_none(tiny_bundle: Path) -> None:
    with open_bundle(tiny_bundle) as bundle:
        reference = find_reference(bundle)
        assert reference is not None and reference.origin == "golden masks"
        ((_, _, mask),) = bundle.golden_frames()
        assert list(reference.areas.values()) == pytest.approx(class_areas(mask, len(bundle.contract.classes)))
        named = bundle.manifest.model_copy(update={"reference_areas": {"road": 1.0}})
        bundle.manifest = named
        reference = find_reference(bundle)
        assert reference is not None and (reference.areas, reference.origin) == ({"road": 1.0}, "bundle's")


def _save(store: FrameStore, index: int, image: Image = NOISE) -> bool:
    return store.save(f"frame-{index:06d}", image, np.zeros(image.shape[:2], np.uint8), {"index": index})


def _on_disk(folder: Path) -> dict[str, list[str]]:
    return {part: sorted(path.stem for path in (folder / part).iterdir()) for part in ("images", "masks", "why")}


def _bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for part in ("images", "masks", "why") for path in (folder / part).iterdir())


def test_kept_frames_are_a_dataset_with_reasons(tiny_contract: Contract, tmp_path: Path) -> None:
    store = FrameStore(tmp_path / "hard", max_bytes=10**6, contract=tiny_contract)
    mask = _mask(3, 5, height=30, width=80)
    assert store.save("camera-1-frame-000004", NOISE, mask, {"reasons": {}})
    dataset = load_dataset(tmp_path / "hard")
    (pair,) = dataset.pairs("train")
    assert np.array_equal(dataset.read_mask(pair), mask) and dataset.classes == tiny_contract.classes
    assert np.array_equal(dataset.read_image(pair), NOISE)
    why = tmp_path / "hard" / "why" / "000000000-camera-1-frame-000004.json"
    assert json.loads(why.read_text()) == {"reasons": {}}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 60), max_size=12), limit=st.integers(2000, 20000), restart=st.integers(0, 12))
def test_the_folder_never_exceeds_its_bytes_and_the_oldest_go(
    tiny_contract: Contract, tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, restart: int
) -> None:
    folder = tmp_path_factory.mktemp("hard")
    store = FrameStore(folder, max_bytes=limit, contract=tiny_contract)
    kept = []
    for index, size in enumerate(sizes):
        if index == restart:
            store = FrameStore(folder, max_bytes=limit, contract=tiny_contract)
        if _save(store, index, NOISE[:size]):
            kept.append(f"frame-{index:06d}")
        assert store.bytes == _bytes_on_disk(folder) <= limit
        found = _on_disk(folder)
        assert found["images"] == found["masks"] == found["why"]
        assert [name[10:] for name in found["images"]] == kept[len(kept) - store.frames :], "the newest, in order"


def test_a_restart_goes_on_and_a_smaller_limit_holds_at_once(tiny_contract: Contract, tmp_path: Path) -> None:
    store = FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract)
    for index in range(4):
        _save(store, index)
    again = FrameStore(tmp_path, max_bytes=store.bytes // 2, contract=tiny_contract)
    assert _on_disk(tmp_path)["images"] == ["000000002-frame-000002", "000000003-frame-000003"]
    assert again.bytes == _bytes_on_disk(tmp_path)
    FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract)
    _save(FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract), 9)
    assert _on_disk(tmp_path)["images"][-1] == "000000004-frame-000009"


def test_what_a_power_cut_left_half_done_is_removed_and_foreign_files_stay(
    tiny_contract: Contract, tmp_path: Path
) -> None:
    store = FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract)
    _save(store, 0)
    (tmp_path / "why" / "000000001-frame-000001.json").write_text("{}")
    (tmp_path / "masks" / "000000001-frame-000001.png").write_bytes(b"x")
    (tmp_path / "images" / ".000000001-frame-000001.0badcafe.partial.png").write_bytes(b"x")
    (tmp_path / "images" / "mine.png").write_bytes(b"x")
    FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract)
    names = ["000000000-frame-000000"]
    assert _on_disk(tmp_path) == {"images": [*names, "mine"], "masks": names, "why": names}


def test_a_folder_of_other_classes_is_refused(tiny_contract: Contract, tmp_path: Path) -> None:
    FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract)
    other = tiny_contract.model_copy(update={"ignore_index": 99})
    with pytest.raises(SinkError, match="another network's classes"):
        FrameStore(tmp_path, max_bytes=10**6, contract=other)


def test_a_frame_larger_than_the_folder_may_be_is_not_kept(tiny_contract: Contract, tmp_path: Path) -> None:
    store = FrameStore(tmp_path, max_bytes=100, contract=tiny_contract)
    assert not _save(store, 0) and _bytes_on_disk(tmp_path) == 0


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """Let the kernel refuse what makes a file longer, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [5, 2000])
def test_what_cannot_be_written_leaves_nothing(tiny_contract: Contract, tmp_path: Path, size: int) -> None:
    store = FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract)
    with _files_up_to(size), pytest.raises(OSError):
        _save(store, 0)
    assert _bytes_on_disk(tmp_path) == store.bytes == 0
    assert _save(store, 1), "there is space again"
    assert _on_disk(tmp_path)["images"] == ["000000000-frame-000001"]


def _watch(contract: Contract, hard: HardFrames, masks: list[Mask], *, period_s: float = 0.04) -> None:
    monitor = HealthMonitor(contract)
    for index, mask in enumerate(masks):
        result = _result(mask, index, period_s=period_s)
        monitor.see(result)
        hard.consider(result, monitor.latest, "camera-1")


def _flickering(count: int, at: list[int]) -> list[Mask]:
    masks = [_mask(3, 5, height=30, width=80) for _ in range(count)]
    for index in at:
        masks[index] = _mask(5, 5, height=30, width=80)
    return masks


def test_a_frame_that_flickers_unusually_is_kept_with_its_reason(tiny_contract: Contract, tmp_path: Path) -> None:
    hard = HardFrames(FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract), {"bundle": "tiny"})
    _watch(tiny_contract, hard, _flickering(100, [80]))
    (path,) = (tmp_path / "why").iterdir()
    why = json.loads(path.read_text())
    assert path.stem == "000000000-camera-1-frame-000080"
    assert (why["frame"], why["camera"], why["bundle"]) == (80, "camera-1", "tiny")
    assert why["reasons"]["area_jump"]["found"] > why["reasons"]["area_jump"]["usual"] == 0
    assert hard.document() == {"saved": 1, "failed": 0, "frames": 1, "bytes": _bytes_on_disk(tmp_path)}


def test_nothing_is_unusual_before_the_usual_is_known(tiny_contract: Contract, tmp_path: Path) -> None:
    hard = HardFrames(FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract), {})
    _watch(tiny_contract, hard, _flickering(LEAST_MASKS, [20, 30]))
    assert hard.saved == 0


def test_a_bad_minute_does_not_fill_the_folder(tiny_contract: Contract, tmp_path: Path) -> None:
    hard = HardFrames(FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract), {})
    _watch(tiny_contract, hard, _flickering(400, [200, 210, 220, 230, 340]))
    assert [name[-3:] for name in _on_disk(tmp_path)["images"]] == ["200", "340"]


def test_a_full_disk_costs_the_hard_frames_and_is_told_once(
    tiny_contract: Contract, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hard = HardFrames(FrameStore(tmp_path, max_bytes=10**6, contract=tiny_contract), {})
    with _files_up_to(2000):
        _watch(tiny_contract, hard, _flickering(800, [200, 400, 600]), period_s=0.1)
    assert hard.document() == {"saved": 0, "failed": 3, "frames": 0, "bytes": 0}
    assert caplog.text.count("hard frames cannot be kept") == 1


@pytest.mark.parametrize(("text", "size"), [("200MB", 200_000_000), ("500kB", 500_000), ("1.5GB", 1_500_000_000)])
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert parse_bytes(text) == size


def _run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(main, ["run", *map(str, arguments)])


def test_run_tells_health_and_keeps_hard_frames(tiny_bundle: Path, tiny_contract: Contract, tmp_path: Path) -> None:
    colours = np.array(tiny_contract.palette, np.uint8)[:, ::-1]
    frames = tmp_path / "frames"
    frames.mkdir()
    for index, mask in enumerate(_flickering(LEAST_MASKS + 20, [LEAST_MASKS + 10])):
        assert cv2.imwrite(str(frames / f"{index:03d}.png"), colours[mask])
    hard, document_path = tmp_path / "hard", tmp_path / "run.json"
    done = _run(tiny_bundle, "--source", frames, "--hard-frames", hard, "--json", document_path)
    assert done.exit_code == 0, done.output
    document = json.loads(document_path.read_text())
    assert document["health"]["flicker"] > 0 and document["health"]["area_reference"] == "golden masks"
    assert 0 < document["health"]["area_drift"] < 1
    assert document["hard_frames"]["saved"] == 1 and document["cameras"][0]["health"] == document["health"]
    assert [path.stem[10:] for path in (hard / "images").iterdir()] == [f"camera-1-{LEAST_MASKS + 10:03d}"]
    assert "flicker" in done.output


@pytest.mark.parametrize("size", ["", "200", "0MB", "12TB"])
def test_a_size_that_cannot_be_read_is_status_2(tiny_bundle: Path, size: str) -> None:
    done = _run(tiny_bundle, "--source", "synthetic://street", "--hard-frames", "x", "--hard-frames-max", size)
    assert done.exit_code == 2 and "expected a size such as 200MB" in done.output


def test_hard_frames_are_off_by_default(tiny_bundle: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), NOISE)
    done = _run(tiny_bundle, "--source", tmp_path / "a.png", "--json", tmp_path / "run.json")
    assert done.exit_code == 0 and "hard_frames" not in json.loads((tmp_path / "run.json").read_text())
