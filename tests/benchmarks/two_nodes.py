"""Real InfiniGen scenes on a cluster of two local nodes, one of which is killed half-way.

    python -m tests.benchmarks.two_nodes OUT [--scenes 12] [--generator indoors:1,rooms:2]

Two Ray nodes of one CPU each are started on this machine, and the driver as a user starts it. When
half of the scenes are finished one node is killed with everything on it, and a minute later another
joins. In the end every scene must be there, and what `make verify` finds is printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from pipeline.farm.attempt import read_attempts
from pipeline.farm.records import names_of
from pipeline.layout import RunFolder

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--seed", type=int, default=3000)
    parser.add_argument("--generator", default="indoors:1,rooms:2")
    parser.add_argument("--panos", type=int, default=1)
    parser.add_argument("--scratch", default="")
    options = parser.parse_args()
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else no cluster on the loopback
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # of the workers
    from ray.cluster_utils import Cluster

    run = RunFolder(options.out)
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False}
    )
    nodes = [cluster.add_node(**NODE), cluster.add_node(**NODE)]
    started = time.monotonic()
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "render", "--out", str(run.path)]
        + ["--scenes", str(options.scenes), "--seed", str(options.seed)]
        + ["--generator", options.generator, "--panos", str(options.panos)]
        + ["--profile", "draft", "--ray-address", cluster.address]
        + (["--scratch", options.scratch] if options.scratch else [])
    )
    half = options.scenes // 2
    while driver.poll() is None:
        time.sleep(1)
        if len(nodes) == 2 and len(names_of(run.done_folder)) >= half:
            print(f"--- killing a node after {time.monotonic() - started:.0f} s", flush=True)
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            time.sleep(60)
            nodes.append(cluster.add_node(**NODE))
            nodes.append(nodes[-1])
            print("--- another node joined", flush=True)
    print(f"--- driver ended with {driver.returncode} after {time.monotonic() - started:.0f} s")
    cluster.shutdown()
    for name in sorted(names_of(run.done_folder)):
        tried = read_attempts(run.scene(name))
        print(name, " ".join(f"{one.stage}:{one.reason}@{one.node[:4]}" for one in tried))
    for command in ("status", "verify"):
        subprocess.run([sys.executable, "-m", "pipeline", command, "--out", str(run.path)])
    sys.exit(driver.returncode)


if __name__ == "__main__":
    main()
