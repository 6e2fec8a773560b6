"""One render gives colour and exact ids: against the formulas of spheres around the camera."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.annotations.annotate import InstanceInfo, annotate
from pipeline.sphere import lonlat_to_direction, lonlat_to_pixel, pixel_to_lonlat

from .truth import DISTANCE, SPHERES, WIDTH, angular_radius


def truth() -> np.ndarray:
    """(H, W) index of the sphere that each pixel's centre sees, -1 for none."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(WIDTH // 2))
    rays = lonlat_to_direction(*pixel_to_lonlat(x, y, WIDTH, WIDTH // 2))
    seen = np.full(x.shape, -1)
    for index, (name, (lon, lat, _)) in enumerate(SPHERES.items()):
        centre = lonlat_to_direction(np.radians(lon), np.radians(lat))
        seen[np.arccos(np.clip(rays @ centre, -1, 1)) < angular_radius(name)] = index
    return seen


def test_every_pixel_has_the_id_of_the_sphere_it_sees(analytic):
    rendered = analytic("spheres")
    ids = np.array([rendered.id_of(name) for name in SPHERES] + [0])
    wrong = np.count_nonzero(ids[truth()] != rendered.ids)
    assert wrong <= 1e-4 * rendered.ids.size  # the spheres are polyhedra: a few edge pixels


def test_ids_beyond_the_range_of_the_pass_take_two_digits(analytic):
    assert len(SPHERES) > 4, "the scene called many must not fit its pass"
    assert np.array_equal(analytic("many").ids, analytic("spheres").ids)


@pytest.mark.parametrize("name", SPHERES)
def test_annotations_match_the_formulas(analytic, name):
    rendered = analytic("spheres")
    table = {
        entry["id"]: InstanceInfo(entry["name"], "sphere", False) for entry in rendered.instances
    }
    objects, dropped = annotate(rendered.ids, table, min_area_pixels=1)
    thing = next(entry for entry in objects if entry["name"] == name)
    lon, lat, _ = SPHERES[name]
    radius, pixel = angular_radius(name), 2 * np.pi / WIDTH
    assert dropped == 0
    assert thing["area"] == np.count_nonzero(rendered.ids == thing["id"])
    assert thing["solid_angle"] == pytest.approx(2 * np.pi * (1 - np.cos(radius)), rel=0.02)
    assert thing["bfov"][2:] == pytest.approx([np.degrees(2 * radius)] * 2, abs=0.6)
    assert thing["bfov"][1] == pytest.approx(lat, abs=0.3)
    assert thing["crosses_seam"] == (name in ("seam", "top", "bottom"))
    assert thing["touches_pole"] == (name in ("top", "bottom"))
    if abs(lat) + np.degrees(radius) < 90:
        turn = (thing["bfov"][0] - lon + 180) % 360 - 180
        assert turn == pytest.approx(0, abs=0.3)
        top = (0.5 - (np.radians(lat) + radius) / np.pi) * WIDTH / 2
        half_width = np.arcsin(np.sin(radius) / np.cos(np.radians(lat))) / pixel
        assert thing["bbox_wrapped"][1] == pytest.approx(top, abs=1)
        assert thing["bbox_wrapped"][2] == pytest.approx(2 * half_width, abs=2)
    assert rendered.ids[thing["click"][1], thing["click"][0]] == thing["id"]


def test_a_pane_of_glass_has_all_of_its_pixels(analytic):
    rendered = analytic("glass")
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(WIDTH // 2))
    rays = lonlat_to_direction(*pixel_to_lonlat(x, y, WIDTH, WIDTH // 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        across, up = rays[..., 0] / rays[..., 1], rays[..., 2] / rays[..., 1]  # at distance 1
    pane = (rays[..., 1] > 0) & (np.abs(across) < 0.5) & (np.abs(up) < 0.5)
    assert np.count_nonzero((rendered.ids == rendered.id_of("pane")) != pane) <= 20
    assert not np.any(rendered.ids == rendered.id_of("front"))


def test_depth_is_the_distance_along_the_ray(analytic):
    rendered = analytic("spheres")
    for name, (lon, lat, radius) in SPHERES.items():
        # On the ray to its centre a sphere is nearest; depth along an axis would be shorter.
        x, y = lonlat_to_pixel(np.radians(lon), np.radians(lat), WIDTH, WIDTH // 2)
        x, y = round(float(x)) % WIDTH, min(max(round(float(y)), 0), WIDTH // 2 - 1)
        assert rendered.depth[y, x] == pytest.approx(DISTANCE - radius, abs=0.01), name


def test_normals_are_in_world_axes(analytic):
    rendered = analytic("spheres")
    x = round((90 / 360 + 0.5) * WIDTH)  # towards +X, on the horizon, at "right"'s longitude
    y = round((0.5 + 25 / 180) * WIDTH / 2)
    towards_camera = -lonlat_to_direction(np.radians(90), np.radians(-25))
    assert rendered.normal[y, x] == pytest.approx(towards_camera, abs=0.05)


def test_the_picture_is_exposed(analytic):
    lit = analytic("spheres").image[analytic("spheres").ids > 0]
    assert 40 < lit.mean() < 230
