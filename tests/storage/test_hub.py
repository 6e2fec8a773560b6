"""Datasets of the Hub: with a network over HTTP, without one from the cache of `hf download`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from pipeline.layout import RunFolder
from pipeline.shards.writer import pack
from pipeline.storage.hub import PLACE
from tests.hub.server import Hub
from tests.synthetic import SETTINGS, finish_scene

REPO = "user/panoramas"

DOWNLOAD = """
import json, sys
from huggingface_hub import snapshot_download
for revision in json.loads(sys.argv[1]):
    snapshot_download("user/panoramas", repo_type="dataset", revision=revision)
"""

READ = """
import json, os, sys
os.environ["HF_HUB_OFFLINE"] = sys.argv[2]
from pipeline.errors import UserError
from pipeline.shards.reader import ShardReader
for address in json.loads(sys.argv[1]):
    try:
        reader = ShardReader(address)
        print(len(reader), reader.row(0)["image_id"], reader.row(0)["image"]["path"][-5:])
    except UserError as error:
        print(f"error: {error}")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub with a dataset of one panorama, and a first commit without it."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    finish_scene(run)
    pack(run, SETTINGS)
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        api = hub.api()
        api.create_repo(REPO, repo_type="dataset")
        for name in ("manifest.json", "data/train-00000.parquet"):
            api.upload_file(
                path_or_fileobj=run.shards / name,
                path_in_repo=name,
                repo_id=REPO,
                repo_type="dataset",
            )
        yield hub


def read(hub: Hub, home: Path, addresses: list[str], *, offline: bool = False) -> list[str]:
    return hub.run(READ, home, json.dumps(addresses), str(int(offline)), xet=False).splitlines()


def test_every_form_of_a_name_is_read_with_and_without_a_network(hub: Hub, tmp_path: Path) -> None:
    commit = hub.api().dataset_info(REPO).sha
    addresses = [
        f"hf://datasets/{REPO}",
        f"hf://datasets/{REPO}/",
        f"hf://datasets/{REPO}/data",
        f"hf://datasets/{REPO}@main",
        f"hf://datasets/{REPO}@main/data",
        f"hf://datasets/{REPO}@{commit}",
    ]
    online = read(hub, tmp_path / "one", addresses)
    assert online == ["2 spheres-0000000000/0 .webp"] * len(addresses)
    hub.run(DOWNLOAD, tmp_path / "two", json.dumps(["main", commit]), xet=False)
    before = len(hub.requests)
    assert read(hub, tmp_path / "two", addresses, offline=True) == online
    assert len(hub.requests) == before


def test_what_the_cache_lacks_is_named(hub: Hub, tmp_path: Path) -> None:
    addresses = [f"hf://datasets/{REPO}", f"hf://datasets/{REPO}@other", "hf://datasets/user"]
    one, two, three = read(hub, tmp_path, addresses, offline=True)
    assert f"hf download --repo-type dataset {REPO}" in one
    assert f"hf download --repo-type dataset {REPO} --revision other" in two
    assert three.startswith("error: hf://datasets/user ")


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("datasets/user/name", ("datasets", "user/name", None, None)),
        ("datasets/user/name@v1.0/data", ("datasets", "user/name", "v1.0", "data")),
        ("datasets/user/name@refs/pr/3", ("datasets", "user/name", "refs/pr/3", None)),
        ("datasets/user/name@refs/convert/parquet/a/b",
         ("datasets", "user/name", "refs/convert/parquet", "a/b")),
        ("datasets/user/name@refs%2Fpr%2F3/a", ("datasets", "user/name", "refs%2Fpr%2F3", "a")),
        ("user/model", (None, "user/model", None, None)),
    ],
)  # fmt: skip
def test_addresses_are_taken_apart(place: str, found: tuple[str | None, ...]) -> None:
    match = PLACE.fullmatch(place)
    assert match is not None and match.group("kind", "repo", "revision", "inside") == found
