"""How well small models follow objects along the scan: on panoramas trained on, and on others.

    python -m tests.benchmarks.following SHARDS [--checkpoint sap-nano] [--clips 12]
    python -m tests.benchmarks.following SHARDS --shift 3 --write shifted.pt

Of each split: the IoU in views that see the click and in views reached through memory, and how
often the object score is right. `--shift` takes a constant off the object score, and `--write`
keeps such weights for `make eval SIZE=nano CHECKPOINT=`, which tells what false masks of a gate
that is open too often cost the panorama.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from sap_model.model.build import default_image_size
from sap_model.train import validation
from sap_model.train.ablations import scan_settings
from sap_model.train.run_folder import export
from sap_model.train.scan_clips import ScanClips
from sap_model.train.shard_rows import ShardRows
from sap_model.train.train import new_network

CYCLE = 24
"""Frames of a clip: one cycle of the scan."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards")
    parser.add_argument("--checkpoint", default="sap-nano")
    parser.add_argument("--image-size", type=int, default=default_image_size("nano"))
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--objects", type=int, default=6)
    parser.add_argument("--shift", type=float, default=0.0)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    data, side = (options.shards,), options.image_size
    settings = replace(scan_settings(data), image_size=side, checkpoint=options.checkpoint)
    network = new_network(settings)
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias -= options.shift
    if options.write is not None:
        export(network, options.write)
        print(f"written: {options.write}")
        return
    least = side * side // 1024  # pixels of an object, the same part of a view at every size
    for split in ("train", "validation"):
        rows = ShardRows(data, split)
        source = ScanClips(
            rows, side, options.objects, CYCLE, inference_prompt_fraction=1.0, min_pixels=least
        )
        score, _ = validation.score(network, validation.fixed_clips(source, options.clips), least)
        print(
            f"{split}: {len(rows)} panoramas; IoU {score.clicked:.3f} in {score.views[0]} clicked "
            f"views, {score.memory:.3f} in {score.views[1]} from memory; "
            f"presence right in {score.presence:.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
