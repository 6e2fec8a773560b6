"""The annotate stage on files: its output, its cleanup, and damaged input."""

import cv2
import numpy as np
import pytest

from pipeline.annotations import stage
from pipeline.layout import read_json, write_json
from pipeline.run_settings import settings_hash
from tests.errors import raises_user_error
from tests.synthetic import (
    HALL,
    PASSES,
    SEAM,
    SETTINGS,
    TINY,
    box3d,
    directions,
    disc_depth,
    disc_ids,
    picture,
    render_scene,
)


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*")}


def test_scene_with_all_passes(run):
    scene = render_scene(run, PASSES, seed=3)
    stage.annotate_scene(scene, PASSES)

    folder = scene.panorama(1)
    ids = disc_ids(256, turn=7)
    np.testing.assert_array_equal(read(folder / "ids.png"), ids)
    image = read(folder / "image.webp")[..., ::-1]
    np.testing.assert_array_equal(image, picture(ids, seed=3001))
    expected = stage.depth_to_millimetres(disc_depth(256, turn=7))
    np.testing.assert_array_equal(read(folder / "depth.png"), expected)
    albedo = read(folder / "albedo.webp")
    assert {1, 4} < set(ids.flat)
    assert np.all(albedo[ids == 1] == 89) and np.all(albedo[ids == 4] == 170)  # sRGB of .1, .4
    normal = read(folder / "normal.png")[..., ::-1] / 65535 * 2 - 1
    np.testing.assert_allclose(normal, -directions(256), atol=2e-5)

    row = read_json(folder / "row.json")
    assert row["image_id"] == "spheres-0000000003/1"
    assert row["provenance"]["settings_hash"] == settings_hash(PASSES)
    assert row["provenance"]["exposure_stops"] == 1.5
    assert row["camera"]["position"] == [0.0, 0.0, 1.5]
    assert row["room"] == HALL
    ball = next(thing for thing in row["objects"] if thing["id"] == SEAM)
    assert (ball["box3d"], ball["distance"], ball["seen"]) == (box3d(SEAM), 2.0, 0.25)
    assert TINY not in {thing["id"] for thing in row["objects"]}
    assert row["summary"]["dropped"] == 1
    assert row["summary"]["defects"] == []

    assert not (scene.path / "rendered").exists()
    assert not scene.done.exists()  # written by the caller
    assert not list(scene.scratch.iterdir())


def test_annotating_is_reproducible_and_idempotent(run, tmp_path):
    scene = render_scene(run)
    stage.annotate_scene(scene, SETTINGS)
    before = files_of(scene.path)
    stage.annotate_scene(scene, SETTINGS)
    assert files_of(scene.path) == before

    twin = render_scene(type(run)(tmp_path / "twin"))
    stage.annotate_scene(twin, SETTINGS)
    assert files_of(twin.path) == before


def test_costs_do_not_change_the_rows(run, tmp_path):
    slow, quick = render_scene(run), render_scene(type(run)(tmp_path / "quick"))
    for path in (slow.generated, *(slow.rendered(k) / "render.json" for k in range(2))):
        facts = read_json(path)
        costs = {key: 1e4 for key in facts if key.endswith("_seconds")}
        assert costs
        write_json(path, {**facts, **costs, "render_cpu_seconds": 9e3})
    for scene in (slow, quick):
        stage.annotate_scene(scene, SETTINGS)
    for k in range(2):
        assert files_of(slow.panorama(k)) == files_of(quick.panorama(k))
        assert b"seconds" not in (slow.panorama(k) / "row.json").read_bytes()


def test_unrendered_panorama_is_annotated_later(run):
    scene = render_scene(run)
    later = scene.path / "later"
    scene.rendered(1).rename(later)
    stage.annotate_scene(scene, SETTINGS)
    assert scene.panorama(0).exists() and not scene.panorama(1).exists()
    assert scene.rendered(0).exists()  # until all are annotated
    later.rename(scene.rendered(1))
    stage.annotate_scene(scene, SETTINGS)
    assert scene.panorama(1).exists() and not scene.rendered(0).exists()


DAMAGES = [
    (name, damage)
    for name in ("image.png", "ids.png", "albedo.exr", "depth.exr", "normal.exr", "render.json")
    for damage in ("truncated", "flipped", "emptied", "removed")
    if damage != "flipped" or name.endswith(".png")  # only PNG has checksums
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_damaged_file_is_named_and_its_folder_deleted(run, name, damage):
    scene = render_scene(run, PASSES)
    path = scene.rendered(1) / name
    data = bytearray(path.read_bytes())
    if damage == "removed":
        path.unlink()
    elif damage == "flipped":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
    with raises_user_error(path):
        stage.annotate_scene(scene, PASSES)
    assert scene.panorama(0).exists()
    assert not scene.rendered(1).exists() and not scene.panorama(1).exists()


@pytest.mark.parametrize("data", [b"\xff\xfe{", b"[1]", b'{"profile": "draft"}'])
def test_damaged_render_json_is_named_and_its_folder_deleted(run, data):
    scene = render_scene(run)
    (scene.rendered(1) / "render.json").write_bytes(data)
    with raises_user_error(scene.rendered(1) / "render.json"):
        stage.annotate_scene(scene, SETTINGS)
    assert scene.panorama(0).exists() and not scene.rendered(1).exists()


def test_opencv_uses_one_thread(run, monkeypatch):
    seen, before = [], cv2.getNumThreads()
    monkeypatch.setattr(stage, "defects", lambda *_: seen.append(cv2.getNumThreads()) or [])
    cv2.setNumThreads(2)
    try:
        stage.annotate_scene(render_scene(run), SETTINGS)
        assert (seen, cv2.getNumThreads()) == ([1, 1], 2)
    finally:
        cv2.setNumThreads(before)


def test_image_of_another_size_is_rejected(run):
    scene = render_scene(run)
    cv2.imwrite(str(scene.rendered(0) / "ids.png"), disc_ids(128))
    with raises_user_error("(64, 128)", "uint16 (128, 256)"):
        stage.annotate_scene(scene, SETTINGS)


def test_black_panorama_is_kept_with_its_defects(run):
    scene = render_scene(run)
    cv2.imwrite(str(scene.rendered(0) / "image.png"), np.zeros((128, 256, 3), np.uint8))
    stage.annotate_scene(scene, SETTINGS)
    (black, constant) = read_json(scene.panorama(0) / "row.json")["summary"]["defects"]
    assert black.startswith("black") and constant.startswith("constant")
    assert (scene.panorama(0) / "image.webp").exists()


def test_unlisted_id_is_an_internal_error(run):
    scene = render_scene(run)
    about = read_json(scene.generated)
    about["instances"] = about["instances"][1:]
    write_json(scene.generated, about)
    with pytest.raises(ValueError, match=r"\[1\]"):
        stage.annotate_scene(scene, SETTINGS)
    assert scene.rendered(0).exists()


def test_failed_write_leaves_no_panorama(run, monkeypatch):
    scene = render_scene(run)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stage, "write_json", full)
    with pytest.raises(OSError, match="No space"):
        stage.annotate_scene(scene, SETTINGS)
    assert not scene.panorama(0).exists() and not list(scene.scratch.iterdir())
    monkeypatch.undo()
    stage.annotate_scene(scene, SETTINGS)
    assert scene.panorama(0).exists() and scene.panorama(1).exists()


def test_depth_out_of_range_is_zero():
    depth = np.array([[0.0004, 1.2344, 65.535, 65.54, np.inf, np.nan, -1, 1e10]], np.float32)
    expected = [[0, 1234, 65535, 0, 0, 0, 0, 0]]
    assert stage.depth_to_millimetres(depth).tolist() == expected


def test_normals_span_16_bits():
    normal = np.array([[[-1, 0, 1], [np.nan, 1.001, -2]]], np.float32)
    assert stage.normal_to_uint16(normal).tolist() == [[[0, 32768, 65535], [32768, 65535, 0]]]
