"""The commands on packed shards: verify, stats, coco, card, publish."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.commands.run import run_folder
from pipeline.config import Card, Coco, Export, OnRun, Publish, Stats, Verify
from pipeline.errors import UserError
from pipeline.layout import RunFolder
from pipeline.run_settings import RunSettings, read_run_settings
from pipeline.storage import exclusive_lock, is_remote
from pipeline.taxonomy import TAXONOMY_NAMES

SHOWN_FINDINGS = 200
READINGS = {
    "coco": "COCO's 32² and 96² pixels",
    "pixels": "scaled by the number of pixels",
    "side": "scaled by the length of a side",
}
SECONDS_BETWEEN_LINES = 10.0


def local_run(options: OnRun) -> RunFolder:
    """OUT, which has to be a folder here: cards, statistics and exports are written to it."""
    run = run_folder(options)
    if is_remote(run.path):
        raise UserError(
            f"OUT={run.path} is not a folder on this machine; give DATA={run.shards} and an OUT on "
            "this machine (to publish, copy shards/ and run.json to it)"
        )
    return run


def verify(options: Verify) -> None:
    """Read the shards back; exit status 1 where something is wrong with them."""
    from pipeline.verify.verify import verify as check

    run = local_run(options)
    own = options.data is None
    settings = read_run_settings(run.path)[0] if own else None
    found = check(
        options.data or run.shards,
        settings=settings,
        records=run.verified if own else None,
        workers=_workers(options.workers),
        progress=_verifying(),
    )
    for finding in found.findings[:SHOWN_FINDINGS]:
        print(finding)
    if len(found.findings) > SHOWN_FINDINGS:
        print(f"… and {len(found.findings) - SHOWN_FINDINGS} more")
    print(
        f"{found.panoramas} panoramas in {found.shards} shards: "
        f"{len(found.findings) or 'no'} finding{'s' * (len(found.findings) != 1)}"
    )
    if found.findings:
        if own:
            print(
                "a shard that was damaged on the disk is written again by make shards, once the "
                "file is deleted"
            )
        sys.exit(1)


def stats(options: Stats) -> None:
    """Shards → statistics.json and figures."""
    from pipeline.shards.reader import ShardReader
    from pipeline.statistics.figures import draw_figures
    from pipeline.statistics.measure import write_statistics

    run = local_run(options)
    path = run.card / "statistics.json"
    statistics = write_statistics(ShardReader(options.data or run.shards), path)
    figures = draw_figures(statistics, run.card / "figures")
    for line in _lines(statistics):
        print(line)
    print(f"statistics: {path}\nfigures:    {figures[0].parent}")


def coco(options: Coco) -> None:
    """Shards → a COCO dataset."""
    from pipeline.card.licences import read_licence
    from pipeline.export.coco import export_coco

    run = local_run(options)
    made = export_coco(
        options.data or run.shards,
        run.coco,
        options.format,
        licence=read_licence(options.license) if options.license else None,
        progress=_counting("panoramas"),
        taxonomy=options.categories,
    )
    for split, images in made.images.items():
        print(f"{split}: {images} images in {run.coco / split}")
    print(
        f"{made.annotations} annotations; {made.written} images written, {made.unchanged} were "
        f"there; JSON: {run.coco / 'annotations'}"
    )
    if made.omitted:
        print(f"{made.omitted} objects have no category in {options.categories} and are left out")
    if made.unlisted:
        print(
            f"{len(made.unlisted)} images there are not part of this export, such as "
            f"{made.unlisted[0]}; they may be deleted"
        )


def export(options: Export) -> None:
    """Shards → the format of another tool."""
    from pipeline.export.command import export_dataset

    run = local_run(options)
    folder = Path(options.to) if options.to else run.path / "export" / options.format
    shards = options.data or run.shards
    written = export_dataset(options, shards, folder, _counting("panoramas"))
    print(f"{written} panoramas written now; {options.format}: {folder}")


def card(options: Card) -> None:
    """Shards → the dataset card."""
    licence = _chosen(options.license)
    print(_write_card(local_run(options), options.repo, licence))


def publish(options: Publish) -> None:
    """Finished scenes → shards, verified → card → the Hub."""
    from huggingface_hub.utils import disable_progress_bars

    from pipeline.publish.changes import card_paths, local_files
    from pipeline.publish.upload import check_access
    from pipeline.publish.upload import publish as send
    from pipeline.shards.writer import pack
    from pipeline.verify.verify import verify as check

    disable_progress_bars()  # a line for each shard is enough
    run = local_run(options)
    licence = _chosen(options.license)  # refuses what is wrong before hours of work
    settings, rows_hash = read_run_settings(run.path)
    check_access(options.repo)
    pack(run, settings, rows_hash=rows_hash)
    with exclusive_lock(run.shards_lock, "publishing"):  # nobody packs again what is being sent
        sha256 = _verified(run, settings, options.workers, check)
        _write_card(run, options.repo, licence)
        shards = {f"data/{name}": run.shards / "data" / name for name in sha256}
        manifest = {"manifest.json": run.shards / "manifest.json"}
        address = send(
            local_files({**shards, **manifest, **card_paths(run.card)}, sha256),
            options.repo,
            private=options.private,
            dry_run=options.dry_run,
            replace=options.replace,
        )
    print("nothing was sent: DRY_RUN=1" if options.dry_run else f"published: {address}")


def _verified(
    run: RunFolder, settings: RunSettings, workers: int | None, check: Callable
) -> dict[str, str]:
    """Hashes of the run's shards, which are without findings."""
    found = check(
        run.shards,
        settings=settings,
        records=run.verified,
        workers=_workers(workers),
        progress=_verifying(),
    )
    if found.findings:
        raise UserError(
            f"{len(found.findings)} findings, the first: {found.findings[0]}; nothing was sent. "
            "make verify lists them all, and says what to do"
        )
    return found.sha256


def _chosen(licence: str | None) -> str:
    """The licence that the user has to choose, which exists."""
    from pipeline.card.licences import LICENCES, read_licence

    if licence is None:
        raise UserError(
            f"LICENSE is not given, and it is your choice; give one of {', '.join(LICENCES)}, or "
            "the path of a text file"
        )
    read_licence(licence)
    return licence


def _write_card(run: RunFolder, repo: str | None, licence: str) -> Path:
    from pipeline.card.card import write_card
    from pipeline.shards.reader import ShardReader
    from pipeline.statistics.measure import measure

    return write_card(
        run.shards,
        run.card,
        repo=repo,
        licence=licence,
        statistics=measure(ShardReader(run.shards)),
    )


def _lines(statistics: dict[str, Any]) -> Iterator[str]:
    """What a person wants to know first."""
    total, paper = statistics["total"], statistics["paper"]
    splits = ", ".join(f"{s['panoramas']} {name}" for name, s in statistics["splits"].items())
    yield f"{total['panoramas']} panoramas ({splits}) of {total['scenes']} scenes"
    for kind in ("instances", "objects"):
        found = total[kind]
        mean = found["per_panorama"]["mean"]
        sizes = ", ".join(
            f"{size} {part['percent']:.2f} %" for size, part in found["sizes"].items()
        )
        yield f"{found['count']} {kind}, {mean:.1f} a panorama: {sizes}"
    sizes = ", ".join(f"{size} {percent:.2f} %" for size, percent in paper["sizes_percent"].items())
    yield f"the paper: {paper['masks_per_panorama']} a panorama: {sizes}"
    yield "small / medium / large of all instances, by what the paper's thresholds may mean:"
    for reading, mix in total["instances"]["size_readings"].items():
        parts = " / ".join(f"{part['percent']:.2f}" for part in mix.values())
        yield f"  {READINGS[reading]}: {parts} %"
    for taxonomy, share in total["taxonomies"].items():
        yield (
            f"{TAXONOMY_NAMES[taxonomy]}: {share['percent']:.1f} % of the instances have a class "
            f"there, of {share['classes']} classes"
        )


def _workers(given: int | None) -> int:
    if hasattr(os, "sched_getaffinity"):  # the CPUs of this process, where the system has them
        return given or len(os.sched_getaffinity(0))
    return given or os.cpu_count() or 1


def _verifying() -> Callable[[int, int, int, int], None]:
    """A progress callback for verifying: a line now and then."""
    say = _counting("shards")

    def progress(done: int, total: int, panoramas: int, findings: int) -> None:
        say(done, total, f", {panoramas} panoramas, {findings} findings so far")

    return progress


def _counting(what: str) -> Callable[..., None]:
    started = last = time.monotonic()

    def progress(done: int, total: int, more: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (now - started) / done * (total - done) if done else 0
            print(f"{done} of {total} {what}{more}, {left / 60:.0f} min left", flush=True)

    return progress
