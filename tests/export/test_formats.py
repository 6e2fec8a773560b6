"""Each format is read back: by its own tool where that is installed, else by its rules."""

from __future__ import annotations

import base64
import io
import json
import math
import shutil
import tarfile
import zlib

import cv2
import numpy as np
import py360convert
import pytest
import yaml
from pycocotools.coco import COCO

from pipeline.config import Export
from pipeline.export.command import export_dataset
from pipeline.export.views import CUBE, SCAN, view_ids, view_picture
from pipeline.geometry import opencv_pose, project
from pipeline.layout import RunFolder
from pipeline.pictures.read import read_picture
from pipeline.shards.reader import ShardReader, decode_ids, decode_image, masks
from pipeline.shards.writer import pack
from tests.errors import raises_user_error
from tests.export.exports import write_shards
from tests.synthetic import PASSES, finish_scene

SIZE = 48


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three scenes of two panoramas with depth, one of them for validation."""
    run = RunFolder(tmp_path_factory.mktemp("formats") / "out")
    for seed in range(3):
        finish_scene(run, PASSES, seed)
    pack(run, PASSES, validation_fraction=0.34)
    return run.shards


@pytest.fixture(scope="module")
def made(shards, tmp_path_factory):
    """Function from the name of a format to the folder with its export."""
    folders = {}

    def make(name, **options):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("exports") / name
            assert export_dataset(Export(format=name, **options), shards, folders[name]) == 6
        return folders[name]

    return make


def rows_of(shards):
    reader = ShardReader(shards)
    return [reader.row(index) for index in range(len(reader))]


def stem_of(row):
    return row["image_id"].replace("/", "-")


# ---- views --------------------------------------------------------------------------------------


def test_faces_equal_those_of_py360convert(shards):
    image = cv2.GaussianBlur(decode_image(rows_of(shards)[0]["image"]), (0, 0), 2)
    faces = py360convert.e2c(image, 64, mode="bilinear", cube_format="dict")
    names = {"front": "F", "right": "R", "back": "B", "left": "L", "up": "U", "down": "D"}
    for face in CUBE:
        theirs = faces[names[face.name]].astype(float)
        assert np.abs(view_picture(image, face, 64, 90.0) - theirs).mean() < 1.5, face


@pytest.mark.parametrize("view", [*CUBE, *SCAN])
def test_pose_of_a_view_agrees_with_its_pixels(view):
    """Ids that number the panorama's columns and rows come back by projecting the view's rays."""
    width, size, fov = 256, 32, 70.0
    pose = opencv_pose((1.0, 2.0, 3.0), (math.pi / 2, 0.0, 0.3))
    v, u = np.mgrid[:size, :size] + 0.5
    focal = size / (2 * math.tan(math.radians(fov) / 2))
    rays = np.stack([(u - size / 2) / focal, (v - size / 2) / focal, np.ones_like(u)], axis=-1)
    matrix = view.pose(pose)
    x, y, _ = project(rays @ matrix[:3, :3].T + matrix[:3, 3], width, pose)
    columns, lines = np.meshgrid(np.arange(width), np.arange(width // 2))
    found_x = view_ids(columns.astype(np.uint16), view, size, fov)
    found_y = view_ids(lines.astype(np.uint16), view, size, fov)
    away = np.abs((found_x - x + width / 2) % width - width / 2)
    assert np.all(np.minimum(away, 99) <= 0.5 + 1e-6) and np.all(np.abs(found_y - y) <= 0.5 + 1e-6)


@pytest.mark.parametrize(("name", "views"), [("perspective", SCAN), ("cubemap", CUBE)])
def test_views_are_coco_datasets_with_poses(made, shards, name, views):
    folder = made(name, size=SIZE)
    for split in ("train", "validation"):
        coco = COCO(str(folder / "annotations" / f"instances_{split}.json"))
        rows = rows_of_split(shards, split)
        assert len(coco.imgs) == len(rows) * len(views)
        for image in coco.imgs.values():
            picture = cv2.imread(str(folder / split / image["file_name"]))
            ids_name = image["file_name"].replace(".jpg", ".png")
            ids = cv2.imread(str(folder / "ids" / split / ids_name), cv2.IMREAD_UNCHANGED)
            assert picture.shape == (SIZE, SIZE, 3) and ids.shape == (SIZE, SIZE)
            fx, _, cx, _ = image["intrinsics"]
            assert (fx, cx) == (pytest.approx(SIZE / 2), SIZE / 2)
            assert np.linalg.det(np.array(image["to_world_opencv"])[:3, :3]) == pytest.approx(1)
            for thing in coco.loadAnns(coco.getAnnIds([image["id"]])):
                mask = coco.annToMask(thing) > 0
                assert np.array_equal(mask, ids == thing["instance_id"])
                x, y, w, h = map(int, thing["bbox"])
                assert mask[y : y + h, x : x + w].sum() == mask.sum() == thing["area"]


def rows_of_split(shards, split):
    reader = ShardReader(shards, split)
    return [reader.row(index) for index in range(len(reader))]


# ---- YOLO ---------------------------------------------------------------------------------------


def test_yolo_polygons_are_the_masks(made, shards):
    folder = made("yolo-seg")
    about = yaml.safe_load((folder / "data.yaml").read_text())
    assert (about["train"], about["val"]) == ("images/train", "images/validation")
    for split in ("train", "validation"):
        for row in rows_of_split(shards, split):
            label = folder / "labels" / split / f"{stem_of(row)}.txt"
            assert (folder / "images" / split / f"{stem_of(row)}.jpg").exists()
            found = {thing["id"]: np.zeros((128, 256), np.uint8) for thing in row["objects"]}
            owners = [t["id"] for t in row["objects"] for _ in range(1 + is_split(t))]
            names = {thing["id"]: thing["category"] for thing in row["objects"]}
            for line, owner in zip(label.read_text().splitlines(), owners, strict=True):
                number, *numbers = line.split()
                assert about["names"][int(number)] == names[owner]
                points = np.array(numbers, float).reshape(-1, 2)
                assert points.min() >= 0 and points.max() <= 1
                corners = np.rint(points * (row["width"], row["height"]) - 0.5).astype(np.int32)
                cv2.fillPoly(found[owner], [corners], 1)
            for thing, mask in zip(row["objects"], masks(row["objects"]), strict=True):
                filled = np.ascontiguousarray(mask, np.uint8)
                contours, _ = cv2.findContours(filled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
                cv2.drawContours(filled, contours, -1, 1, cv2.FILLED)
                drawn = found[thing["id"]]
                assert np.count_nonzero(drawn & filled) / np.count_nonzero(drawn | filled) > 0.95


def is_split(thing):
    return thing["crosses_seam"] and thing["bbox_wrapped"][2] < 255


def test_pictures_of_panoramas_have_gpano(made, shards):
    for name, place in (("yolo-seg", "images/train"), ("fiftyone", "data")):
        path = next((made(name) / place).glob("*.jpg"))
        assert b"http://ns.google.com/photos/1.0/panorama/" in path.read_bytes()
        assert read_picture(path).pixels.shape == (128, 256, 3)


# ---- WebDataset ---------------------------------------------------------------------------------


def test_tar_files_hold_a_panorama_after_the_other(made, shards):
    folder = made("webdataset")
    for split in ("train", "validation"):
        samples = {}
        with tarfile.open(folder / f"{split}-000000.tar") as tar:
            for member in tar:  # grouped as WebDataset does: by the name up to the first dot
                key, _, kind = member.name.partition(".")
                if key not in samples:
                    samples[key] = {}
                assert key == list(samples)[-1], "members of a sample are neighbours"
                samples[key][kind] = tar.extractfile(member).read()
        rows = rows_of_split(shards, split)
        assert list(samples) == [stem_of(row) for row in rows]
        for row, sample in zip(rows, samples.values(), strict=True):
            assert sample["webp"] == row["image"]["bytes"]
            assert sample["ids.png"] == row["ids"]["bytes"]
            assert sample["depth.png"] == row["depth"]["bytes"]
            assert json.loads(sample["json"])["objects"] == row["objects"]


# ---- nerfstudio and COLMAP ----------------------------------------------------------------------


def test_nerfstudio_rays_see_what_the_panorama_sees(made, shards):
    folder = made("nerfstudio", size=SIZE)
    for row in rows_of(shards):
        scene = folder / row["scene_id"]
        about = json.loads((scene / "transforms.json").read_text())
        assert about["camera_model"] == "EQUIRECTANGULAR"
        assert (about["w"], about["h"], about["fl_x"]) == (256, 128, 128)
        (frame,) = [f for f in about["frames"] if stem_of(row) in f["file_path"]]
        assert (scene / frame["file_path"]).exists()
        depth = cv2.imread(str(scene / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(depth, decode_ids(row["depth"]))
        # nerfstudio's rays of an equirectangular camera, as its documentation defines them
        x, y = 200.5, 40.5
        theta = -math.pi * (x - about["cx"]) / about["fl_x"]
        phi = math.pi * (0.5 + (y - about["cy"]) / about["fl_y"])
        ray = [-math.sin(theta) * math.sin(phi), math.cos(phi), -math.cos(theta) * math.sin(phi)]
        matrix = np.array(frame["transform_matrix"])
        point = matrix[:3, :3] @ ray + matrix[:3, 3]
        assert project(point, 256, row["camera"]["to_world_opencv"])[:2] == (
            pytest.approx(200),
            pytest.approx(40),
        )
        cube = json.loads((scene / "transforms_cube.json").read_text())
        assert len(cube["frames"]) == 12
        assert all((scene / face["file_path"]).exists() for face in cube["frames"])


def read_colmap(model):
    """cameras, images and points of a COLMAP text model, by the rules of its documentation."""
    camera = (model / "cameras.txt").read_text().split()
    lines = (model / "images.txt").read_text().splitlines()
    images = {}
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        number, *numbers, camera_id, name = first.split()
        observed = np.array(second.split(), float).reshape(-1, 3)
        images[int(number)] = (np.array(numbers, float), int(camera_id), name, observed)
    points = {}
    for line in (model / "points3D.txt").read_text().splitlines():
        number, x, y, z, *rest = line.split()
        points[int(number)] = (np.array([x, y, z], float), list(map(float, rest)))
    return camera, images, points


def rotation_of(q):
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def test_colmap_points_project_to_their_observations(made, shards):
    folder = made("colmap", size=SIZE)
    scenes = {row["scene_id"] for row in rows_of(shards)}
    for scene in scenes:
        camera, images, points = read_colmap(folder / scene / "sparse" / "0")
        assert camera[:4] == ["1", "PINHOLE", str(SIZE), str(SIZE)]
        fx, fy, cx, cy = map(float, camera[4:])
        assert len(images) == 12 and len(points) > 1000
        seen = 0
        for number, (pose, camera_id, name, observed) in images.items():
            assert camera_id == 1 and (folder / scene / "images" / name).exists()
            for place, (u, v, point) in enumerate(observed):
                where, (*_, error, image_id, index) = points[int(point)]
                assert (error, image_id, index) == (0, number, place)
                x, y, z = rotation_of(pose[:4]) @ where + pose[4:]
                assert (fx * x / z + cx, fy * y / z + cy) == pytest.approx((u, v), abs=2e-3)
                assert -1e-6 <= u <= SIZE + 1e-6 and -1e-6 <= v <= SIZE + 1e-6
                seen += 1
        assert seen == len(points)


# ---- FiftyOne -----------------------------------------------------------------------------------


def test_fiftyone_samples_hold_the_masks(made, shards):
    folder = made("fiftyone")
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert json.loads((folder / "metadata.json").read_text())["media_type"] == "image"
    rows = {row["image_id"]: row for row in rows_of(shards)}
    assert {sample["image_id"] for sample in samples} == set(rows)
    for sample in samples:
        row = rows[sample["image_id"]]
        assert (folder / sample["filepath"]).exists() and len(sample["tags"]) == 1
        found = sample["ground_truth"]["detections"]
        for detection, thing, mask in zip(
            found, row["objects"], masks(row["objects"]), strict=True
        ):
            data = zlib.decompress(base64.b64decode(detection["mask"]["$binary"]["base64"]))
            crop = np.load(io.BytesIO(data), allow_pickle=False)
            x, y, _, _ = (
                round(part * side)
                for part, side in zip(detection["bounding_box"], (256, 128, 256, 128), strict=True)
            )
            drawn = np.zeros(mask.shape, bool)
            drawn[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
            assert np.array_equal(drawn, mask) and detection["label"] == thing["category"]


# ---- folders and settings -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cubemap", "webdataset"])
def test_a_repeated_export_writes_only_what_is_missing(made, shards, tmp_path, name):
    options = Export(format=name, size=SIZE if name == "cubemap" else None)
    before = {p: p.read_bytes() for p in made(name, size=options.size).rglob("*") if p.is_file()}
    folder = tmp_path / "again"
    shutil.copytree(made(name), folder)
    assert export_dataset(options, shards, folder) == 0
    victim = next(folder.rglob("*.jpg" if name == "cubemap" else "train*.tar"))
    victim.unlink()
    assert export_dataset(options, shards, folder) == (1 if name == "cubemap" else 4)
    after = {
        made(name) / p.relative_to(folder): p.read_bytes()
        for p in folder.rglob("*.*")
        if p.is_file()
    }
    assert all(after[path] == data for path, data in before.items() if path in after)


def test_a_folder_with_something_else_is_refused(made, shards, tmp_path):
    (tmp_path / "thesis.tex").write_text("all of it")
    with raises_user_error(tmp_path, "something else"):
        export_dataset(Export(format="colmap"), shards, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]
    folder = made("fiftyone")
    for options in (Export(format="yolo-seg"), Export(format="fiftyone", categories="coco")):
        with raises_user_error(folder, "other settings"):
            export_dataset(options, shards, folder)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"format": "webdataset", "size": 64}, "SIZE=64"),
        ({"format": "cubemap", "fov": 60.0}, "FOV=60"),
        ({"format": "colmap", "categories": "coco"}, "CATEGORIES=coco"),
    ],
)
def test_a_setting_of_another_format_is_refused(shards, tmp_path, options, named):
    with raises_user_error(named):
        export_dataset(Export(**options), shards, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_imported_panoramas_have_no_poses(rows, tmp_path):
    """They can be cut into views, but not placed."""
    imported = {**rows[0], "generator": "import", "seed": None, "camera": None, "room": None}
    data = write_shards(tmp_path / "shards", train=[imported])
    with raises_user_error("has no camera"):
        export_dataset(Export(format="nerfstudio", size=SIZE), data, tmp_path / "a")
    export_dataset(Export(format="cubemap", size=SIZE), data, tmp_path / "b")
    coco = COCO(str(tmp_path / "b" / "annotations" / "instances_train.json"))
    assert {image["to_world_opencv"] for image in coco.imgs.values()} == {None}
