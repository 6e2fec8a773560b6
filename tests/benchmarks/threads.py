"""Seconds of a click with SAP-nano by threads, alone and beside busy processes.

python -m tests.benchmarks.threads [--threads 1 2] [--busy 0 2] [--repeats 2]

Each figure is the fastest of the repeats, in a fresh process: the panorama (1024 × 512) is encoded
and one object is segmented along the scan. "chosen" is what `sap_model.threads` takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import torch

from sap_model.check_gpu.workloads import panorama
from sap_model.clicks import Click
from sap_model.model.checkpoints import load
from sap_model.predict.memory import MemoryPredictor
from sap_model.threads import adapt_threads, use_threads

BUSY = "while True: pass"


def click(threads: int) -> None:
    """Print the seconds of a click, and the threads; 0 leaves the choice to `sap_model.threads`."""
    model = load("nano", "sap-nano", device="cpu")
    if threads:
        use_threads(threads)
    else:
        adapt_threads(model)
    predictor, image = MemoryPredictor(model), panorama(1024)
    started = time.monotonic()
    predictor.set_panorama(image)
    predictor.predict([Click(500, 250, 1)])
    print(time.monotonic() - started, torch.get_num_threads())


def measure(threads: int, repeats: int) -> tuple[float, int]:
    """The fastest click of some processes, and its threads."""
    command = [sys.executable, "-m", "tests.benchmarks.threads", "--child", str(threads)]
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    found = []
    for _ in range(repeats):
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        seconds, used = done.stdout.split()[-2:]
        found.append((float(seconds), int(used)))
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--child", type=int)
    options = parser.parse_args()
    if options.child is not None:
        click(options.child)
        return
    print("| threads | busy processes | load before | seconds |\n|---|---|---|---|")
    for busy in options.busy:
        others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
        try:
            for threads in (*options.threads, 0):
                load_before = os.getloadavg()[0]
                seconds, used = measure(threads, options.repeats)
                name = threads or f"chosen: {used}"
                print(f"| {name} | {busy} | {load_before:.1f} | {seconds:.1f} |", flush=True)
        finally:
            for other in others:
                other.kill()


if __name__ == "__main__":
    main()
