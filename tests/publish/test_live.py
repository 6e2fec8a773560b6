"""The life of a dataset on a Hub: created, grown, read, deleted.

It always runs on the Hub of this machine. To run it on huggingface.co as well:

    HF_TEST_TOKEN=hf_… python -m pytest tests/publish/test_live.py

The token must be allowed to write. The test creates the private dataset
`<user>/sap-panorama-test-<random>` of about 1 MB, and deletes it at the end, also after a failure.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import datasets
import numpy as np
import pytest
from huggingface_hub import HfApi

from pipeline.card.card import write_card
from pipeline.layout import RunFolder
from pipeline.publish.changes import card_paths, local_files
from pipeline.publish.upload import publish, read_repository
from pipeline.shards.reader import ShardReader
from pipeline.shards.writer import pack
from pipeline.statistics.measure import measure
from tests.synthetic import SETTINGS, finish_scene

TOKEN = os.environ.get("HF_TEST_TOKEN")


@pytest.fixture(
    params=[
        "local",
        pytest.param("huggingface.co", marks=pytest.mark.skipif(not TOKEN, reason="HF_TEST_TOKEN")),
    ]
)
def api(request: pytest.FixtureRequest) -> HfApi:
    if request.param == "local":
        return request.getfixturevalue("hub").api()
    return HfApi(endpoint="https://huggingface.co", token=TOKEN)


@pytest.fixture
def repo(api: HfApi) -> Iterator[str]:
    name = f"{api.whoami()['name']}/sap-panorama-test-{secrets.token_hex(4)}"
    yield name
    api.delete_repo(name, repo_type="dataset", missing_ok=True)


def test_published_dataset_grows_and_is_read_back(api, repo, tmp_path):
    run = RunFolder(tmp_path / "out")

    def publish_scenes(seeds: range) -> None:
        for seed in seeds:
            finish_scene(run, seed=seed)
        pack(run, SETTINGS, validation_fraction=0.5)
        statistics = measure(ShardReader(run.shards))
        write_card(run.shards, run.card, repo=repo, licence="cc0-1.0", statistics=statistics)
        shards = {f"data/{path.name}": path for path in (run.shards / "data").iterdir()}
        manifest = {"manifest.json": run.shards / "manifest.json"}
        files = local_files({**shards, **manifest, **card_paths(run.card)}, {})
        publish(files, repo, api=api, say=lambda line: None)
        state = read_repository(api, repo)
        assert state.private
        assert {file.name for file in files} <= {file.name for file in state.files}

    publish_scenes(range(2))
    publish_scenes(range(2, 4))
    state = read_repository(api, repo)
    publish_scenes(range(0))  # nothing has changed
    assert read_repository(api, repo).head == state.head

    folder = api.snapshot_download(repo, repo_type="dataset", local_dir=tmp_path / "copy")
    loaded = datasets.load_dataset(folder, "full", cache_dir=str(tmp_path / "cache"))
    assert sum(len(rows) for rows in loaded.values()) == 8
    for row in loaded["train"]:
        ids = np.array(row["ids"])
        assert all(np.count_nonzero(ids == t["id"]) == t["area"] for t in row["objects"])
