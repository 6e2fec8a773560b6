"""Mutated COCO files, pictures and shards, through the importer, the reader and the verification.

    python -m tests.fuzz --count 2000 --seed 7 --seconds 1200

Whatever a file holds, the answer is a result or a `UserError` of one line: no other exception, no
crash, no hang, nothing on stderr (but of a shard's images, of which libpng speaks), and no file
outside of the folder that is written to. Cases run in another process, which is replaced when it
dies or hangs. A case is made from its seed and number alone; `--only N` runs it in this process.
"""

from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UserError
from pipeline.export.coco import export_coco
from pipeline.pictures.read import read_picture
from pipeline.shards.reader import ShardReader
from pipeline.shards.schema import make_schema
from pipeline.verify.verify import verify
from sap_model.importers.coco import import_coco
from sap_model.importers.files import read_labels, read_mask
from tests.pictures import samples
from tests.pictures.read_samples import READ
from tests.sap_model.importers import coco_samples

MOST_SECONDS = 60
"""Of a case, on a busy machine."""

MOST_MEMORY = 8 * 2**30

SHARDS = "shards"
"""Folder of good shards, which cases copy."""

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 2**31, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), "", "0", "1", "x" * 3000, "\0", "../../x", "/etc/passwd", "~/x",
    "a\\b.png", "\ud800", "é" * 300, [], {}, [[]], [[[]]], [1], {"counts": "x"}, [None] * 8,
)  # fmt: skip
"""What a node of a JSON is replaced by."""


# ---- cases


def coco_case(draw: random.Random, folder: Path) -> None:
    """A COCO file with a few nodes or bytes changed."""
    data = coco_samples.whole()
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        mutate_json(draw, data)
    file = coco_samples.write(folder / "in")
    text = json.dumps(data, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    if draw.random() < 0.25:
        text = mutate_bytes(draw, text)
    file.write_bytes(text)
    import_coco(
        file,
        folder / "out",
        crowds=draw.choice(("skip", "instances")),
        skip_bad=draw.random() < 0.5,
    )


def picture_case(draw: random.Random, folder: Path) -> None:
    """A picture with a few bytes changed, as panorama, as mask and as labels."""
    data = mutate_bytes(draw, sample(draw.choice(list(PICTURES))))
    path = folder / "in" / "picture.png"
    path.parent.mkdir()
    path.write_bytes(data)
    for read in (read_mask_of_size, read_labels):
        try:
            read(path)
        except UserError as error:
            check_line(error)
    read_picture(path)


def shard_case(draw: random.Random, folder: Path) -> None:
    """Shards of which bytes, or values of rows, are changed."""
    shutil.copytree(folder.parent / SHARDS, folder / "in")
    shard = folder / "in" / "data" / "validation-00000.parquet"
    manifest = folder / "in" / "manifest.json"
    how = draw.random()
    if how < 0.1:
        manifest.write_bytes(mutate_bytes(draw, manifest.read_bytes()))
    elif how < 0.4:
        # with the manifest: without its hash of the footer, pyarrow ends the process where an entry
        # of the footer is damaged (a ParquetException that it does not catch)
        shard.write_bytes(mutate_bytes(draw, shard.read_bytes(), tail=draw.random() < 0.6))
    elif how < 0.5:
        manifest.unlink()
        mutate_pages(draw, shard)
    else:
        manifest.unlink()
        forge_rows(draw, shard)
    verify(folder / "in")
    reader = ShardReader(folder / "in")
    for index in range(min(len(reader), 4)):
        reader.row(index)
    export_coco(folder / "in", folder / "out", draw.choice(("webp", "png")))


def mutate_pages(draw: random.Random, shard: Path) -> None:
    """Change bytes of a shard before its footer."""
    data = shard.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    pages = bytearray(data[:start])
    for _ in range(draw.choice((1, 2, 8))):
        pages[draw.randrange(4, start)] = draw.randrange(256)
    shard.write_bytes(bytes(pages) + data[start:])


def forge_rows(draw: random.Random, shard: Path) -> None:
    """Write a shard again, whole, with a few values changed that the schema allows."""
    original = pq.read_table(shard).to_pylist()
    for _ in range(20):
        rows = copy.deepcopy(original)
        for _ in range(draw.choice((1, 1, 2, 4))):
            mutate_row(draw, draw.choice(rows))
        try:
            tables = [pa.Table.from_pylist([row], make_schema()) for row in rows]
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            continue  # not of the schema's types
        with pq.ParquetWriter(shard, make_schema(), write_page_checksum=True) as writer:
            for table in tables:
                writer.write_table(table)
        return


PICTURES = READ | {
    "EXR": ("a.exr", samples.exr({"RGB": samples.ramp()})),
    "EXR of halves": ("a.exr", samples.exr({"RGB": samples.ramp().astype(np.float16)})),
    "HDR": ("a.hdr", samples.by_opencv(samples.ramp(), ".hdr")),
    "TIFF of floats": ("a.tif", samples.tiff(samples.ramp(), photometric="rgb")),
    "a crop": ("a.jpg", samples.saved("JPEG", xmp=samples.gpano(**samples.QUARTER))),
}

CASES: dict[str, Callable[[random.Random, Path], None]] = {
    "coco": coco_case,
    "picture": picture_case,
    "shard": shard_case,
}


def read_mask_of_size(path: Path) -> object:
    return read_mask(path, (coco_samples.H, coco_samples.W))


@cache
def sample(kind: str) -> bytes:
    name, make = PICTURES[kind]
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


# ---- mutations


def mutate_json(draw: random.Random, data: Any) -> None:
    """Replace, remove, repeat or rename a node, at any depth."""
    node: Any = data
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = draw.choice(list(keys))
        child = node[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.8:
            node = child
            continue
        how = draw.random()
        if how < 0.5:
            node[key] = copy.deepcopy(draw.choice(VALUES))
        elif how < 0.65:
            del node[key]
        elif how < 0.8 and isinstance(node, list):
            node.append(copy.deepcopy(child))
        elif how < 0.8:
            node[draw.choice(("id", "name", "size", "", "iscrowd"))] = copy.deepcopy(child)
        else:
            node[key] = str(child) if isinstance(child, int | float) else [child]
        return


def mutate_row(draw: random.Random, node: Any) -> None:
    """Change one value of a row, for one of its type or null."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = draw.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and draw.random() < 0.85:
            node = child
        elif draw.random() < 0.15:
            node[key] = None
            return
        elif isinstance(child, list) and child:
            child.append(copy.deepcopy(draw.choice(child)))
            return
        else:
            node[key] = other_value(draw, child)
            return


def other_value(draw: random.Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int):
        return draw.choice((0, 1, -1, value + 1, -value, 2**15, 2**16, 2**31 - 1, 2**40))
    if isinstance(value, float):
        return draw.choice((0.0, -1.0, 1e300, float("nan"), float("inf"), value * 1.01))
    if isinstance(value, str):
        changed = mutate_bytes(draw, value.encode()).decode("latin-1")
        return draw.choice((changed, "", "../../x", "import", "a/0", "\n", "0" * 5000))
    return mutate_bytes(draw, value) if isinstance(value, bytes) else value


def mutate_bytes(draw: random.Random, data: bytes, tail: bool = False) -> bytes:
    """Overwrite, cut, insert or repeat bytes, more often near the head, or the tail if asked."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        near = min(len(changed), 600) if draw.random() < 0.6 else len(changed)
        place = draw.randrange(near)
        place = len(changed) - 1 - place if tail else place
        how = draw.random()
        if how < 0.5:
            changed[place] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
        elif how < 0.7:
            size = draw.choice((2, 4, 8))
            changed[place : place + size] = draw.randbytes(size)
        elif how < 0.8:
            del changed[place : place + draw.choice((1, 2, 50, len(changed)))]
        elif how < 0.9:
            changed[place:place] = draw.randbytes(draw.choice((1, 4, 300)))
        else:
            changed[place:place] = changed[place : place + draw.choice((4, 100))]
    return bytes(changed)


# ---- judging


@dataclass(frozen=True)
class Outcome:
    """What a case came to: "taken", "refused", or what is wrong."""

    number: int
    kind: str
    text: str


def check_line(error: UserError) -> None:
    text = str(error)
    if not text.strip() or "\n" in text or len(text) > 2000:
        raise AssertionError(f"no message of one line: {text[:200]!r}")


def run_case(seed: int, number: int, root: Path) -> Outcome:
    """Run a case in root/case, and look at what it left."""
    draw = random.Random(f"{seed} {number}")
    kind = list(CASES)[number % len(CASES)]
    folder, scratch = root / "case", root / "tmp"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    said = root / "stderr"
    kept = os.dup(2)
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        CASES[kind](draw, folder)
        text = "taken"
    except UserError as error:
        text = "refused"
        try:
            check_line(error)
        except AssertionError as wrong:
            text = str(wrong)
    except Exception:
        text = traceback.format_exc()
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
    left = {path.name for path in root.iterdir()} - {"case", "tmp", "stderr", SHARDS}
    left |= {path.name for path in folder.iterdir()} - {"in", "out"}
    left |= {f"tmp/{path.name}" for path in scratch.iterdir()}
    if left:
        text = f"left behind: {sorted(left)}"
    elif said.stat().st_size and kind != "shard":
        text = f"on stderr: {said.read_text(errors='replace')[:300]}"
    return Outcome(number, kind, text)


def prepare(root: Path) -> None:
    (root / "tmp").mkdir(parents=True)
    import_coco(coco_samples.write(root / "in"), root / SHARDS)
    shutil.rmtree(root / "in")


def work(seed: int, first: int, end: int, root: Path, channel: Any) -> None:
    """Run cases in a process of their own."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    tempfile.tempdir = str(root / "tmp")
    os.environ["TMPDIR"] = tempfile.tempdir
    os.chdir(root)
    for number in range(first, end):
        channel.send(number)
        channel.send(run_case(seed, number, root))


def fuzz(seed: int, count: int, seconds: float) -> list[Outcome]:
    """Run up to `count` cases for up to `seconds`; a process that dies or hangs is replaced."""
    context = multiprocessing.get_context("spawn")
    outcomes: list[Outcome] = []
    started = time.monotonic()
    number = 0
    with tempfile.TemporaryDirectory() as root:
        while number < count and time.monotonic() - started < seconds:
            shutil.rmtree(root)
            prepare(Path(root))
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=work, args=(seed, number, count, Path(root), theirs))
            worker.start()
            theirs.close()
            try:
                while number < count and time.monotonic() - started < seconds:
                    if not ours.poll(MOST_SECONDS):
                        raise TimeoutError
                    ours.recv()
                    if not ours.poll(MOST_SECONDS):
                        raise TimeoutError
                    outcomes.append(ours.recv())
                    number += 1
            except TimeoutError:
                outcomes.append(Outcome(number, "", f"hung for {MOST_SECONDS} s"))
                number += 1
            except EOFError:
                worker.join()
                outcomes.append(Outcome(number, "", f"died with status {worker.exitcode}"))
                number += 1
            finally:
                worker.kill()
                worker.join()
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--only", type=int)
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    if options.only is not None:
        root = Path(tempfile.mkdtemp())
        prepare(root)
        print(run_case(options.seed, options.only, root).text, f"\n{root}")
        return
    outcomes = fuzz(options.seed, options.count, options.seconds)
    good = Counter((o.kind, o.text) for o in outcomes if o.text in ("taken", "refused"))
    for (kind, text), cases in sorted(good.items()):
        print(f"{kind}: {cases} {text}")
    wrong = [o for o in outcomes if o.text not in ("taken", "refused")]
    for outcome in wrong:
        print(f"--- case {outcome.number} ({outcome.kind}): {outcome.text}")
    print(f"{len(outcomes)} cases, {len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
