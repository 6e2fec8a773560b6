"""Shards elsewhere: on a real S3 server on this machine, in fsspec's memory, behind HTTP."""

import http.server
import multiprocessing
import pickle
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import pytest
import requests

from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.shards import footers
from pipeline.shards.reader import ShardReader, in_order
from pipeline.shards.writer import pack
from pipeline.storage import open_path, show
from tests.storage.s3 import S3, SECRET
from tests.synthetic import SETTINGS

ROOT = Path(__file__).parents[2]
BUCKET, URL = "panoramas", "s3://panoramas/dataset"


class Server(S3):
    """A server with a dataset."""

    def read(self, **kwargs):
        return ShardReader(URL, storage_options=self.options, **kwargs)

    def upload(self, folder):
        for path in folder.rglob("*"):
            if path.is_file():
                self.put(path.relative_to(folder).as_posix(), path.read_bytes())

    def put(self, name, data):
        self.client.put_object(Bucket=BUCKET, Key=f"dataset/{name}", Body=data)

    def get(self, name):
        return self.client.get_object(Bucket=BUCKET, Key=f"dataset/{name}")["Body"].read()

    def delete(self, name):
        self.client.delete_object(Bucket=BUCKET, Key=f"dataset/{name}")

    def ranges(self):
        """Sizes of the ranges asked for since the last call; other requests count as None."""
        sizes = []
        for _, wanted in list(self.requests):
            start, stop = (wanted or "bytes=0-").removeprefix("bytes=").split("-")
            sizes.append(int(stop) - int(start) + 1 if stop else None)
        self.requests.clear()
        return sizes


@pytest.fixture(scope="module")
def server():
    with Server(BUCKET) as server:
        yield server


@pytest.fixture(scope="module")
def local(finished, tmp_path_factory):
    """OUT/shards of four shards."""
    run = RunFolder(tmp_path_factory.mktemp("local") / "out")
    shutil.copytree(finished.path, run.path)
    pack(run, SETTINGS, shard_bytes=200_000, validation_fraction=0)
    return run.shards


@pytest.fixture
def bucket(server, local):
    """The server, with those shards and nothing else in its bucket."""
    for thing in server.client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        server.client.delete_object(Bucket=BUCKET, Key=thing["Key"])
    server.upload(local)
    server.ranges()
    return server


@pytest.fixture
def memory(local):
    """The same shards in fsspec's memory."""
    store = fsspec.filesystem("memory")
    for path in local.rglob("*.*"):
        store.pipe_file(f"/dataset/{path.relative_to(local).as_posix()}", path.read_bytes())
    yield store
    store.rm("/dataset", recursive=True)


def everything(reader):
    return [reader.row(index) for index in range(len(reader))]


def test_s3_gives_what_the_disk_gives(bucket, local):
    ours, theirs = bucket.read(), ShardReader(local)
    assert ours.shards == theirs.shards and ours.splits == theirs.splits
    assert ours.paths == [f"{URL}/data/{name}" for name in ours.shards]
    assert everything(ours) == everything(theirs)
    assert list(ours.annotations()) == list(theirs.annotations())
    columns = ["image_id", "objects.list.element.area"]
    for (name, batch), (other, expected) in zip(
        ours.batches(columns), theirs.batches(columns), strict=True
    ):
        assert name == other and batch.equals(expected)
    inside = ShardReader(f"{URL}/data/", storage_options=bucket.options)
    assert inside.row(7) == theirs.row(7)


def test_memory_gives_what_the_disk_gives(memory, local):
    ours, theirs = ShardReader("memory://dataset"), ShardReader(local)
    assert everything(ours) == everything(theirs)
    assert list(ours.annotations()) == list(theirs.annotations())


def test_opening_asks_for_lists_and_the_manifest(bucket):
    assert len(bucket.read()) == 8
    assert bucket.ranges() == [None, None, len(bucket.get("manifest.json"))]


def test_a_row_is_one_request_and_its_footer_another(bucket):
    reader = bucket.read()
    bucket.ranges()
    row = reader.row(0)
    size = sum(len(row[name]["bytes"]) for name in ("image", "ids"))
    footer, whole = bucket.ranges()
    assert footer <= footers.FOOTER_BYTES + 2 * footers.FOOTER_BYTES_PER_ROW
    assert size < whole < size + 10_000
    reader.row(1)
    assert len(bucket.ranges()) == 1
    reader.row(1, ["objects"])
    (objects,) = bucket.ranges()
    assert objects < 10_000


def test_a_scan_of_annotations_does_not_fetch_pictures(bucket):
    reader = bucket.read()
    bucket.ranges()
    assert len(list(reader.annotations())) == 8
    sizes = bucket.ranges()
    assert len(sizes) == 4 + 8  # footers and rows
    assert sum(sorted(sizes)[:8]) < 8 * 10_000


def test_without_a_manifest_rows_are_counted_from_footers(bucket, local):
    bucket.delete("manifest.json")
    reader = bucket.read()
    assert len(reader) == 8 and reader.row(5) == ShardReader(local).row(5)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_can_be_sent_to_other_processes(bucket, local, method):
    reader = bucket.read()
    reader.row(0)
    assert b"s3fs" not in pickle.dumps(reader)  # a connection
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert list(pool.map(reader.row, range(8))) == everything(ShardReader(local))


def test_a_forked_reader_connects_again(bucket, local):
    reader = bucket.read()
    reader.row(0)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(reader.row(3)))
    child.start()
    assert answers.get() == ShardReader(local).row(3)
    child.join()
    assert reader.row(4) == ShardReader(local).row(4)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_missing_shard_is_named(bucket, with_manifest):
    if not with_manifest:
        bucket.delete("manifest.json")
    bucket.delete("data/train-00001.parquet")
    with pytest.raises(UserError, match=f"^{URL}/data/train-00001.parquet is missing; upload"):
        bucket.read()


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_truncated_shard_is_named(bucket, with_manifest):
    if not with_manifest:
        bucket.delete("manifest.json")
    name = "data/train-00001.parquet"
    bucket.put(name, bucket.get(name)[:-100])
    with pytest.raises(UserError, match=f"^{URL}/{name} is truncated"):
        bucket.read()


def test_changes_to_an_open_shard_are_reported(bucket):
    name = "data/train-00000.parquet"
    good = bucket.get(name)
    opened, fresh = bucket.read(), bucket.read()
    opened.row(0)
    bucket.put(name, good[:1000])
    for reader in (opened, fresh):
        with pytest.raises(UserError, match=f"^{URL}/{name} is truncated"):
            reader.row(0)
    bucket.delete(name)
    for reader in (opened, fresh):
        with pytest.raises(UserError, match=f"^{URL}/{name} is missing") as caught:
            reader.row(0)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=f"^{URL}/{name} is missing"):
        list(fresh.annotations())


def test_a_flipped_bit_is_noticed(bucket):
    reader = bucket.read()
    data, name = reader.row(1)["image"]["bytes"], "data/train-00000.parquet"
    shard = bytearray(bucket.get(name))
    shard[shard.index(data) + 100] ^= 1
    bucket.put(name, bytes(shard))
    for read in (partial(reader.row, 1), lambda: list(reader.batches(["image"]))):
        with pytest.raises(UserError, match=f"{name} is damaged at row 1: .* checksum"):
            read()


@pytest.mark.parametrize("url", [f"{URL}/nothing", "s3://no-such-bucket/dataset"])
def test_an_empty_address_is_reported(bucket, url):
    with pytest.raises(UserError, match=f"^{url} holds no shards; check the address"):
        ShardReader(url, storage_options=bucket.options)


def test_wrong_credentials_are_reported_without_showing_them(bucket):
    reader = bucket.read()
    requests.post(f"{bucket.url}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        for read in (bucket.read, partial(reader.row, 0)):
            with pytest.raises(UserError, match=r"may not be used .* \(PermissionError") as caught:
                read()
            assert SECRET not in str(caught.value) and "\n" not in str(caught.value)
    finally:
        requests.post(f"{bucket.url}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_a_store_that_does_not_answer_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(UserError, match=f":{port}/dataset cannot be used .*ConnectorError"):
        ShardReader(f"http://127.0.0.1:{port}/dataset")


def test_addresses_are_shown_without_credentials():
    for address, shown in (
        ("ftp://me:password@host/dataset/", "ftp://host/dataset"),
        ("https://me:password@host/x?token=secret", "https://host/x"),
        ("hf://datasets/me/x@main", "hf://datasets/me/x@main"),
    ):
        path = open_path(address, {"token": SECRET}, read_only=True)
        assert show(path) == shown
        assert SECRET not in repr(path)


def test_an_unknown_protocol_is_reported():
    with pytest.raises(UserError, match="nowhere://"):
        ShardReader("nowhere://x")


def test_a_missing_package_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"memory:// needs a package .* make setup EXTRAS=hub"):
        ShardReader("memory://x")


def test_local_shards_need_no_fsspec_and_no_unix(local):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['fsspec', 'fcntl', 'resource', 'ray']))\n"
        "from pipeline.shards.reader import ShardReader\n"
        f"assert ShardReader({str(local)!r}).row(0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_server_that_knows_no_ranges_is_refused(local):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Handler, directory=local)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            reader = ShardReader(f"http://127.0.0.1:{server.server_port}")
            assert len(reader) == 8
            with pytest.raises(UserError, match="cannot be read in parts; download it first"):
                reader.row(0)
        finally:
            server.shutdown()


@pytest.mark.parametrize("at_once", [1, 3])
def test_results_come_in_order_and_few_items_are_taken_ahead(at_once):
    asked = []

    def items():
        for number in range(20):
            asked.append(number)
            yield number

    for number, answer in enumerate(in_order(lambda item: 2 * item, items(), at_once)):
        assert answer == 2 * number
        assert len(asked) <= number + at_once
