"""Panorama → views and points → views, against the definition and independent programs."""

from __future__ import annotations

import numpy as np
import py360convert
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import sphere
from pipeline.errors import UserError
from sap_model.scan.geometry import ErpWindow, Perspective
from sap_model.scan.trajectory import Scan
from sap_model.scan.views import ErpWindowViews, PerspectiveViews, soft_masks
from tests.sap_model.scan import peers
from tests.synthetic import disc_ids

SIZE, WIDTH = 96, 384
SCANS = [Scan(90, overlap) for overlap in (0, 0.5, 2 / 3, 0.75, 0.8)] + [Scan(60, 0.5)]
VIEWS = [PerspectiveViews(scan, SIZE, WIDTH) for scan in SCANS]
VIEWS += [PerspectiveViews(Scan(), 75, 500), PerspectiveViews(Scan(90, 0.75), SIZE, 326)]
"""Also an odd size, and widths in which a step is not an integer number of columns."""
DEFAULT = VIEWS[1]
PATCHES = ErpWindowViews(Scan(), SIZE, WIDTH)


@given(st.sampled_from(VIEWS), st.floats(-0.5, 600), st.floats(0, 1))
@settings(deadline=None)
def test_visible_is_what_the_definition_projects(views, x, down):
    y = down * views.height - 0.5
    found = {sighting.view: sighting for sighting in views.visible(x, y)}
    assert list(found) == sorted(found)
    for i, view in enumerate(views.scan.views):
        u, v, depth = peers.project(x, y, views.width, view, views.scan.fov, views.size)
        last = views.size - 1
        inside = min(u, v, last - u, last - v) if depth > 0 else -1
        if abs(inside) > 1e-5:  # on the border rounding decides
            assert (i in found) == (inside > 0)
        if i in found:
            assert (found[i].u, found[i].v) == pytest.approx((u, v), abs=1e-6)
            assert 0 <= found[i].u <= last and 0 <= found[i].v <= last


@given(st.sampled_from(VIEWS), st.data())
@settings(deadline=None)
def test_a_view_pixel_comes_back_from_the_panorama(views, data):
    i = data.draw(st.integers(0, len(views) - 1))
    u, v = data.draw(st.floats(0, views.size - 1)), data.draw(st.floats(0, views.size - 1))
    place = views.maps.places[i]
    lon, lat = views.geometry.to_sphere(place.pitch, u, v)
    yaw = np.radians(views.scan.views[i].yaw)
    x, y = sphere.lonlat_to_pixel(lon + yaw, lat, views.width, views.height)
    sighting = next(found for found in views.visible(float(x), float(y)) if found.view == i)
    assert (sighting.u, sighting.v) == pytest.approx((u, v), abs=1e-5)


@pytest.mark.parametrize("pole", [-0.5, WIDTH / 2 - 0.5])
def test_a_pole_is_seen_by_the_whole_row_next_to_it(pole):
    pitch = 45 if pole < 0 else -45
    due = [i for i, view in enumerate(DEFAULT.scan.views) if view.pitch == pitch]
    for x in (0, 100.3, WIDTH - 1):
        found = DEFAULT.visible(x, pole)
        assert [sighting.view for sighting in found] == due
        middle = (SIZE - 1) / 2
        edge = 0 if pole < 0 else SIZE - 1
        for sighting in found:
            assert (sighting.u, sighting.v) == pytest.approx((middle, edge), abs=1e-6)


@pytest.mark.parametrize("views", VIEWS[1:6], ids=lambda views: f"{len(views)} views")
def test_every_direction_is_seen(views):
    counts = views.counts()
    assert counts.min() >= 1
    x, y = np.meshgrid(np.arange(views.width), np.arange(views.height))
    np.testing.assert_array_equal(counts, views.project(x, y)[2].sum(axis=0))


def test_a_direction_is_seen_by_four_of_24_views_on_average():
    # a 90° view is a sixth of the sphere
    views = PerspectiveViews(Scan(), 256, 1024)
    angles = sphere.pixel_solid_angles(1024, 512)[:, None]
    assert (views.counts() * angles).sum() / (4 * np.pi) == pytest.approx(24 / 6, rel=0.01)
    assert views.counts().min() == 3


def test_eight_views_without_overlap_leave_what_the_trajectory_says():
    views = PerspectiveViews(Scan(90, 0), 512, 1024)
    angles = sphere.pixel_solid_angles(1024, 512)[:, None]
    share = ((views.counts() == 0) * angles).sum() / (4 * np.pi)
    assert share == pytest.approx(HOLES, abs=0.002)
    gaps = (views.counts()[256] == 0).sum() * 360 / 1024
    assert gaps == pytest.approx(4 * (90 - 2 * np.degrees(np.arctan(np.sqrt(0.5)))), abs=2)


@pytest.mark.parametrize("width", [1024, 1000])
def test_a_smooth_panorama_gives_the_smooth_views(width):
    views = PerspectiveViews(Scan(), 65, width)  # odd, so that a pixel looks at the pole
    exact = peers.smooth_panorama(width)
    rendered = views.render(exact)
    rounded = views.render(np.rint(exact).astype(np.uint8))
    n = views.maps.samples
    assert n > 1, "pixels are means"
    for i, view in enumerate(views.scan.views):
        fine = peers.smooth(peers.view_directions(view, 90, 65, n))
        due = fine.reshape(65, n, 65, n, -1).mean(axis=(1, 3))
        assert abs(rendered[i] - due).max() < 0.05  # 1/64 pixel of position
        assert abs(rounded[i] - due).max() < 1.1


def test_8k_panoramas_are_within_opencvs_limits():
    views = PerspectiveViews(Scan(), 33, 8192)
    lon = np.linspace(-np.pi, np.pi, 2 * 8192 + 1, dtype=np.float32)[1::2]
    # one grey level per direction: the height of a wave that runs round the horizon
    lat = np.linspace(np.pi / 2, -np.pi / 2, 8192 + 1, dtype=np.float32)[1::2, None]
    panorama = 127.5 + 100 * np.cos(lat) * np.sin(lon)
    rendered = views.render(np.rint(panorama).astype(np.uint8))
    due = [127.5 + 100 * peers.view_directions(view, 90, 33)[..., 0] for view in views.scan.views]
    assert abs(rendered - np.stack(due)).max() < 1.1


@pytest.mark.parametrize(
    ("width", "size", "samples"), [(4096, 1024, 1), (8192, 1024, 2), (4096, 256, 5), (384, 96, 1)]
)
def test_views_are_antialiased_where_the_panorama_is_larger(width, size, samples):
    assert PerspectiveViews(Scan(), size, width).maps.samples == samples


@pytest.mark.parametrize("kind", [PerspectiveViews, ErpWindowViews])
def test_details_finer_than_a_views_pixels_are_averaged(kind):
    """Columns that are black and white in turn, five to a pixel of a view: grey."""
    views = kind(Scan(), 64, 1280)
    panorama = np.zeros((640, 1280), np.uint8)
    panorama[:, ::2] = 254
    rendered = views.render(panorama).astype(float)
    centre = rendered[:, 16:48, 16:48]
    assert abs(centre.mean() - 127) < 2
    assert centre.std() < 30, "72 where positions alone decide"
    smooth = views.render(np.full((640, 1280), 77, np.uint8))
    assert (smooth == 77).all()


def test_orientation_agrees_with_py360convert():
    panorama = peers.smooth_panorama(WIDTH)
    rendered = DEFAULT.render(panorama)
    for i, view in enumerate(DEFAULT.scan.views):
        theirs = py360convert.e2p(panorama, 90, view.yaw, view.pitch, (SIZE, SIZE))
        assert abs(rendered[i] - theirs).max() < 1


@pytest.mark.parametrize("views", [*VIEWS[:2], *VIEWS[-2:]], ids=lambda views: str(views.width))
def test_ids_are_those_of_the_nearest_pixel(views):
    pixels = np.arange(views.width * views.height, dtype=np.int32)
    rendered = views.render_ids(pixels.reshape(views.height, views.width))
    for view, found in zip(views.scan.views, rendered, strict=True):
        x, y, z = np.moveaxis(peers.view_directions(view, views.scan.fov, views.size), -1, 0)
        lonlat = sphere.direction_to_lonlat(np.stack([x, z, -y], axis=-1))
        position = sphere.lonlat_to_pixel(*lonlat, views.width, views.height)
        column, row = sphere.nearest_pixel(*position, views.width, views.height)
        tie = np.min([abs((axis % 1) - 0.5) for axis in position], axis=0) < 1e-6
        assert tie.mean() < 0.1
        np.testing.assert_array_equal(found[~tie], (row * views.width + column)[~tie])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.uint16, np.uint32, np.int64])
def test_ids_of_every_type(dtype):
    ids = disc_ids(WIDTH)
    due = DEFAULT.render_ids(ids.astype(np.int32)).astype(dtype)
    rendered = DEFAULT.render_ids(ids.astype(dtype))
    assert rendered.dtype == dtype
    np.testing.assert_array_equal(rendered, due)


@given(st.sampled_from([DEFAULT, PATCHES]), st.integers(0, 7))
@settings(max_examples=10, deadline=None)
def test_rolling_by_yaw_steps_rolls_views_and_clicks_exactly(views, steps):
    generator = np.random.default_rng(steps)
    panorama = generator.integers(0, 256, (views.height, views.width, 3), np.uint8)
    turned = np.roll(panorama, steps * WIDTH // 8, axis=1)
    cells = {(view.column, view.row): i for i, view in enumerate(views.scan.views)}
    source = [cells[(view.column - steps) % 8, view.row] for view in views.scan.views]
    np.testing.assert_array_equal(views.render(turned), views.render(panorama)[source])
    ids = panorama[..., 0]
    np.testing.assert_array_equal(views.render_ids(turned[..., 0]), views.render_ids(ids)[source])
    x, y = generator.uniform(0, views.width, 9), generator.uniform(0, views.height, 9)
    x = np.rint(x)  # of other numbers, the addition itself would round
    before, after = views.project(x, y), views.project(x + steps * WIDTH // 8, y)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[source], b)


@given(
    st.sampled_from([Perspective, ErpWindow]),
    st.sampled_from([(90.0, 0), (90.0, 45), (90.0, -45), (90.0, 27), (60.0, -60), (108.0, 36)]),
)
@settings(deadline=None)
def test_bounds_are_the_smallest_box(geometry, pose):
    fov, pitch = pose
    lens = geometry(fov, 65)
    half = 0.5 if geometry is ErpWindow else 0
    edge = np.linspace(-half, 64 + half, 65 * 8)[:, None]
    middle = np.append(edge, 32)  # where a row's latitude has its extreme
    lon, lat = lens.to_sphere(np.radians(pitch), middle, edge)
    west, east, south, north = lens.bounds(np.radians(pitch))
    assert (west, east) == pytest.approx((lon.min(), lon.max()), abs=1e-6)
    assert (south, north) == pytest.approx((lat.min(), lat.max()), abs=1e-4)


def test_patches_are_crops_of_the_panorama():
    panorama = np.random.default_rng(0).integers(0, 256, (WIDTH // 2, WIDTH, 3), np.uint8)
    rendered = PATCHES.render(panorama)
    for i, view in enumerate(PATCHES.scan.views):
        # 90° are 96 columns and rows
        left = round((view.yaw + 180 - 45) / 360 * WIDTH)
        top = round((90 - view.pitch - 45) / 360 * WIDTH)
        crop = np.roll(panorama, -left, axis=1)[top : top + 96, :96]
        np.testing.assert_array_equal(rendered[i], crop)
        np.testing.assert_array_equal(PATCHES.render_ids(panorama[..., 0])[i], crop[..., 0])


@given(st.floats(-0.5, 600), st.floats(0, 1))
@settings(deadline=None)
def test_patches_see_what_lies_in_their_window(x, down):
    y = down * PATCHES.height - 0.5
    found = {sighting.view: sighting for sighting in PATCHES.visible(x, y)}
    assert found
    for i, view in enumerate(PATCHES.scan.views):
        right = (x - (WIDTH - 1) / 2 - view.yaw / 360 * WIDTH + WIDTH / 2) % WIDTH - WIDTH / 2
        below = y - (WIDTH / 2 - 1) / 2 + view.pitch / 360 * WIDTH
        inside = 48 - max(abs(right), abs(below))
        if abs(inside) > 1e-5:
            assert (i in found) == (inside > 0)
        if i in found:
            due = np.clip([right + 47.5, below + 47.5], 0, 95)
            assert (found[i].u, found[i].v) == pytest.approx(tuple(due), abs=1e-6)


def test_soft_masks_keep_the_border_between_pixels():
    logits = np.array([-1024, -3, 1, 20], np.float32)
    soft = soft_masks(logits)
    assert soft.dtype == np.float32
    assert soft[0] == 0 and soft[-1] == 1
    # the linear zero crossing lies three quarters of the way from -3 to 1, before and after
    assert (0.5 - soft[1]) / (soft[2] - soft[1]) == pytest.approx(0.75)


def test_what_does_not_fit_is_refused_in_one_line():
    with pytest.raises(UserError, match="panorama of 10 × 20"):
        DEFAULT.render(np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(UserError, match="masks of shape"):
        DEFAULT.to_panorama(np.zeros((3, SIZE, SIZE), bool))
    with pytest.raises(UserError, match="masks of type"):
        DEFAULT.to_panorama(np.zeros((24, SIZE, SIZE), np.uint8))
    with pytest.raises(UserError, match="fusion"):
        DEFAULT.to_panorama(np.zeros((24, SIZE, SIZE), bool), "median")
    with pytest.raises(UserError, match="wide"):
        PerspectiveViews(Scan(), SIZE, 333)
    with pytest.raises(UserError, match="size"):
        PerspectiveViews(Scan(), 1, 256)


HOLES = 0.031
"""Share of the sphere that 8 views without overlap miss; `sap_model.scan.trajectory` says so."""
