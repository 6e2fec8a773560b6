"""Many scenes while processes are killed: `python -m tests.soak [--scenes 200] [--store s3]`.

Scenes of real Blender are made twice on a Ray cluster of several nodes on this machine: once
undisturbed, once while workers, Blenders, nodes and the driver are killed or halted at random
times. The shards must be equal, byte for byte, and nothing may be left over. The seed of the
times is printed; which process is hit depends on what runs at that moment.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline import storage
from pipeline.farm.attempt import read_attempts
from pipeline.farm.records import names_of, read_done
from pipeline.farm.worker import PREFIX, sweep
from pipeline.layout import LEFTOVER, RunFolder
from tests.farm.ray_cluster import CHECKOUT, QUICK_RAY, Cluster, NodeHere, loopback
from tests.storage.s3 import S3

ROUND = ("worker", "worker", "blender", "blender", "node", "driver", "halt")
"""Targets of one round; each round has a new random order."""

SHORT_HALT, LONG_HALT = (1.0, 4.0), (15.0, 25.0)  # seconds; Ray declares a node dead after about 10
BACK_SECONDS = 20.0  # for halted processes to notice that they were declared dead
NODE_CPUS = 2
BUCKET = "farm"

DRIVER = """
import sys
from pipeline.storage import lease
from pipeline.cli import main
lease.BEAT_SECONDS, lease.LEASE_SECONDS = 3.0, 20.0
main(sys.argv[1:])
"""


@dataclass
class Soak:
    """A run that is disturbed.

    Attributes:
        folder: Everything of it: scratch, logs, and OUT where that is a folder.
        gap: Mean seconds between two hits, and `hits`, how many there may be.
        kinds: What was hit, and how often.
        halted: Nodes that are halted, and until when.
        unexpected_exits: Exits of the driver that the soak did not cause.
    """

    scenes: int
    width: int
    gap: float
    hits: int
    random: random.Random
    cluster: Cluster
    folder: Path
    env: dict[str, str]
    kinds: Counter[str] = field(default_factory=Counter)
    halted: dict[str, tuple[NodeHere, float]] = field(default_factory=dict)
    unexpected_exits: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.started:7.1f} s  {text}", flush=True)

    def driver(self, out: str) -> subprocess.Popen[bytes]:
        """Start a driver, which resumes the run in OUT."""
        options = {
            "generator": "spheres",
            "profile": "draft",
            "width": self.width,
            "panos": 2,
            "scenes": self.scenes,
            "render-cpus": 1,  # several threads of the denoiser add up in any order
            "ray-address": self.cluster.address,
            "scratch": self.scratch,
            "out": out,
            # kills from outside say nothing against a seed, however many
            "attempts": 10**6,
            "nodes-lost": 10**6,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with open(self.folder / "driver.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", DRIVER, "render", *arguments],
                env={**os.environ, **loopback(self.cluster.ip), **QUICK_RAY, **self.env},
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=CHECKOUT,
            )

    def undisturbed(self, out: str) -> float:
        """Make the scenes undisturbed; returns the seconds."""
        began = time.monotonic()
        if status := self.driver(out).wait():
            raise SystemExit(f"the undisturbed run ended with {status}; see {self.folder}")
        return time.monotonic() - began

    def disturbed(self, out: str, nodes: int) -> float:
        """Make the scenes while processes are killed; returns the seconds."""
        began = time.monotonic()
        driver, rounds = self.driver(out), self.rounds()
        while True:
            kind = next(rounds)
            end = time.monotonic() + self.random.uniform(0.2, 1.8) * self.gap
            while time.monotonic() < end and driver.poll() is None:
                time.sleep(0.1)
                self.repair(nodes)
            if driver.poll() is not None:
                if not driver.returncode:
                    break
                self.unexpected_exits += 1
                self.say(f"the driver exited unexpectedly with {driver.returncode}")
                if self.unexpected_exits > 5:
                    break
                driver = self.driver(out)
            elif self.kinds.total() >= self.hits:
                continue
            elif kind == "driver":
                driver.kill()
                driver.wait()
                self.note("driver", f"kill driver {driver.pid}")
                driver = self.driver(out)
            else:
                self.hit(kind)
        seconds = time.monotonic() - began
        for node, _ in self.halted.values():
            node.resume()
        return seconds

    def rounds(self) -> Iterator[str]:
        """Targets, without end."""
        while True:
            yield from self.random.sample(ROUND, len(ROUND))

    def hit(self, kind: str) -> None:
        """Kill or halt one target of a kind, if one exists."""
        awake = [node for node in self.cluster.alive if node.name not in self.halted]
        choice = self.random.random()
        if kind in ("node", "halt"):
            if len(awake) > 1:  # otherwise no node is left
                node = awake[int(choice * len(awake))]
                self.hit_node(kind, node)
            return
        if kind == "worker":
            found = [worker for node in awake for worker in node.workers()]
        else:
            found = blenders(self.scratch)
        if found:
            process = found[int(choice * len(found))]
            with suppress(psutil.Error):
                at = " ".join(process.cmdline()).rpartition(PREFIX)[2]
                process.kill()
                self.note(kind, f"kill {kind} {process.pid} {at}".rstrip())

    def hit_node(self, kind: str, node: NodeHere) -> None:
        at_work = len(node.workers())
        if kind == "node":
            node.kill()
            self.note("node", f"kill node {node.name[:8]} with {at_work} at work")
            return
        long = self.random.random() < 0.5
        seconds = self.random.uniform(*(LONG_HALT if long else SHORT_HALT))
        node.halt()
        self.halted[node.name] = (node, time.monotonic() + seconds)
        kind = "long halt" if long else "short halt"
        self.note(kind, f"halt node {node.name[:8]} with {at_work} at work for {seconds:.0f} s")

    def note(self, kind: str, text: str) -> None:
        self.kinds[kind] += 1
        self.say(text)

    def repair(self, nodes: int) -> None:
        """Resume halted nodes when it is time, and replace dead nodes."""
        for name, (node, end) in list(self.halted.items()):
            if time.monotonic() > end:
                del self.halted[name]
                node.resume()
                self.say(f"node {name[:8]} resumes")
        for node in self.cluster.nodes:
            if node.starter.poll() is None and not node.alive:
                with suppress(subprocess.TimeoutExpired):
                    node.starter.wait(timeout=5)
        while len(self.cluster.alive) < nodes:
            node = self.cluster.add(cpus=NODE_CPUS)
            self.say(f"new node {node.name[:8]}")

    def settle(self) -> None:
        """Wait until processes that resumed late have noticed and ended."""
        end = time.monotonic() + BACK_SECONDS
        while time.monotonic() < end:
            busy = [worker for node in self.cluster.alive for worker in node.workers()]
            if not busy and not blenders(self.scratch):
                return
            time.sleep(0.2)


def blenders(scratch: Path) -> list[psutil.Process]:
    """Living Blender processes that work below a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        ours = "pipeline.blender" in command and str(scratch) in command[-1]
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def files_of(folder: Path) -> list[str]:
    """All files below a folder of OUT, by their paths in it, sorted."""
    if storage.is_remote(folder):
        remote = folder
        root = str(remote.path).rstrip("/") + "/"
        return sorted(name.removeprefix(root) for name in remote.fs.find(root))
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def hashes(run: RunFolder) -> dict[str, str]:
    """SHA-256 of every shard."""
    data = run.shards / "data"
    return {
        name: hashlib.sha256(storage.read_bytes(data / name)).hexdigest()
        for name in storage.names(data)
    }


def find_faults(run: RunFolder, wanted: set[str], like: RunFolder) -> list[str]:
    """Faults of a finished run.

    Args:
        wanted: Names of its scenes.
        like: A run of the same scenes that nobody disturbed.
    """
    found = []
    done, failed = names_of(run.done_folder), storage.names(run.failed_folder)
    if done != wanted:
        found.append(f"done: {len(done)} scenes, missing {sorted(wanted - done)}")
    if failed:
        found.append(f"failed: {sorted(failed)}")
    if ours := hashes(run):
        if ours != hashes(like):
            found.append(f"the shards differ: {ours} and {hashes(like)}")
    else:
        found.append("there are no shards")
    files = files_of(run.path)
    by_scene: dict[str, list[str]] = {name: [] for name in done}
    for file in files:
        if file.startswith("shards/") and LEFTOVER.fullmatch(file.rpartition("/")[2]):
            found.append(f"left over: {file}")
        if file.startswith("scenes/"):
            scene, _, rest = file.removeprefix("scenes/").partition("/")
            by_scene.setdefault(scene, []).append(rest)
    for scene in sorted(done & wanted):
        record, theirs = read_done(run, scene), read_done(like, scene)
        if (record.panoramas, record.unfit) != (theirs.panoramas, theirs.unfit):
            found.append(f"{scene}: {record.panoramas}, should have {theirs.panoramas}")
        here = {int(file.split("/")[1]) for file in by_scene[scene] if file.startswith("panoramas")}
        if here != {*record.panoramas, *map(int, record.unfit)}:
            found.append(f"{scene}: the panoramas {sorted(here)} lie there")
    return found


def unneeded_files(run: RunFolder) -> list[str]:
    """Files that are not needed: work of finished scenes, half-written files."""
    found = []
    for file in files_of(run.path):
        name = file.rpartition("/")[2]
        work = file.startswith("scenes/") and (name == "scene.blend" or "/rendered/" in file)
        if work or LEFTOVER.fullmatch(name):
            found.append(file)
    return found


def sweep_scratch(scratch: Path) -> tuple[int, list[str]]:
    """How many folders of killed attempts a sweep removes, and what remains."""
    before = len(list(scratch.iterdir())) if scratch.exists() else 0
    sweep(scratch)
    after = sorted(path.name for path in scratch.iterdir()) if scratch.exists() else []
    return before - len(after), after


def reasons(run: RunFolder, wanted: set[str]) -> Counter[str]:
    """How the attempts at all scenes ended."""
    ends: Counter[str] = Counter()
    for name in wanted:
        ends.update(one.reason or "open" for one in read_attempts(run.scene(name)))
    return ends


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="of the times")
    parser.add_argument("--store", choices=("folder", "s3"), default="folder")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--gap", type=float, default=20.0, help="mean seconds between two hits")
    parser.add_argument("--hits", type=int, default=10**6, help="at most so many")
    parser.add_argument("--keep", type=Path, help="a folder that stays, for looking at it")
    options = parser.parse_args(arguments)
    print(f"seed {options.seed}", flush=True)
    with ExitStack() as stack:
        folder = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="soak"))
        )
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        env = {}
        if options.store == "s3":
            env = stack.enter_context(S3(BUCKET)).environment
            os.environ.update(env)
        out = f"s3://{BUCKET}/run" if options.store == "s3" else str(folder / "disturbed")
        cluster = stack.enter_context(Cluster(env=env))
        soak = Soak(
            options.scenes,
            options.width,
            options.gap,
            options.hits,
            random.Random(options.seed),
            cluster,
            folder,
            env,
        )
        soak.repair(options.nodes)
        like = RunFolder(folder / "undisturbed")
        peace = soak.undisturbed(str(like.path))
        soak.say(f"undisturbed: {options.scenes} scenes in {peace:.0f} s")
        trouble = soak.disturbed(out, options.nodes)
        soak.say(f"disturbed: {trouble:.0f} s")
        soak.settle()
        alive = blenders(soak.scratch)
        run = RunFolder(storage.open_path(out))
        cluster.close()
        wanted = names_of(like.done_folder)
        bad = find_faults(run, wanted, like)
        swept, stays = sweep_scratch(soak.scratch)
        if len(wanted) != options.scenes:
            bad.append(f"the undisturbed run made {len(wanted)} scenes")
        if alive:
            bad.append(f"Blender lives: {[process.pid for process in alive]}")
        if stays:
            bad.append(f"stays in scratch: {stays}")
        if soak.unexpected_exits:
            bad.append(f"the driver exited unexpectedly {soak.unexpected_exits} times")
        behind = unneeded_files(run)
        print(f"hit: {dict(sorted(soak.kinds.items()))}, {soak.kinds.total()} in all")
        print(f"attempts: {dict(reasons(run, wanted).most_common())}")
        print(f"seconds: {peace:.0f} undisturbed, {trouble:.0f} disturbed")
        print(f"scratch folders of killed attempts: {swept}, swept")
        print(f"files that only take space: {len(behind)} {behind[:5]}")
        for line in bad:
            print(f"WRONG: {line}")
        equal = "byte-identical" if hashes(run) == hashes(like) else "different"
        print(f"shards: {len(hashes(run))} files, {equal}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
