"""What a finished run has cost and what it shows: the README's table, from OUT's own files.

python -m tests.benchmarks.costs OUT [OUT …]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from statistics import mean

from pipeline.annotations.sizes import PAPER_MASKS_PER_PANORAMA, PAPER_MIX_PERCENT, SIZES
from pipeline.farm.attempt import read_attempts
from pipeline.layout import RunFolder, SceneFolder, read_json


def main(folders: list[str]) -> None:
    for folder in folders:
        run = RunFolder(Path(folder))
        scenes = [run.scene(path.name) for path in sorted(run.scenes.iterdir())]
        finished = [scene for scene in scenes if scene.done.exists()]
        failed = [scene for scene in scenes if scene.failed.exists()]
        print(f"\n## {folder}: {len(finished)} scenes done, {len(failed)} seeds failed")
        for scene in failed:
            about = read_json(scene.failed)
            print(f"failed: {scene.scene_id}: {about['reason']}: {about['detail']}")
        if finished:
            _report(finished)


def _report(scenes: list[SceneFolder]) -> None:
    generated = [read_json(scene.generated) for scene in scenes]
    rows = [read_json(path) for scene in scenes for path in scene.path.glob("panoramas/*/row.json")]
    attempts = [attempt for scene in scenes for attempt in read_attempts(scene)]
    cpu: Counter[str] = Counter()
    wall: Counter[str] = Counter()
    for attempt in attempts:
        cpu[attempt.stage] += attempt.cpu_seconds
        wall[attempt.stage] += attempt.seconds
    infinigen = sum(about["infinigen_cpu_seconds"] for about in generated)
    cycles = cpu["render"]
    total = sum(cpu.values())
    rooms = sum(len(about["furnished_rooms"]) for about in generated)
    count = len(rows)
    print("| figure | value |\n|---|---|")
    print(f"| CPU-minutes per scene, InfiniGen alone | {infinigen / 60 / len(scenes):.1f} |")
    print(f"| CPU-minutes per furnished room, InfiniGen alone | {infinigen / 60 / rooms:.1f} |")
    print(f"| CPU-minutes per scene, generate stage | {cpu['generate'] / 60 / len(scenes):.1f} |")
    print(f"| CPU-minutes per panorama, render stage | {cycles / 60 / count:.1f} |")
    print(f"| wall minutes per panorama, render stage | {wall['render'] / 60 / count:.1f} |")
    print(f"| CPU-seconds per panorama, annotate stage | {cpu['annotate'] / count:.1f} |")
    outside = 100 * (total - infinigen - cycles) / total
    print(f"| CPU time outside InfiniGen and the render process | {outside:.1f} % |")
    objects = [thing for row in rows for thing in row["objects"]]
    loose = [thing for thing in objects if not thing["is_structure"]]
    print(f"| panoramas | {count} |")
    shown = len(objects) / count
    print(f"| instances per panorama (paper {PAPER_MASKS_PER_PANORAMA}) | {shown:.1f} |")
    print(f"| the same without structure | {len(loose) / count:.1f} |")
    sizes = Counter(thing["size"] for thing in objects)
    for size in SIZES:
        share = 100 * sizes[size] / len(objects)
        print(f"| {size}, % (paper {PAPER_MIX_PERCENT[size]}) | {share:.2f} |")
    print("\nscene | rooms | instances per panorama | generate CPU-min | panoramas")
    print("---|---|---|---|---")
    for scene, about in zip(scenes, generated, strict=True):
        own = [row for row in rows if row["scene_id"] == scene.scene_id]
        instances = mean(len(row["objects"]) for row in own)
        names = ", ".join(about["furnished_rooms"])
        minutes = about["scene_cpu_seconds"] / 60
        print(f"{scene.scene_id} | {names} | {instances:.1f} | {minutes:.1f} | {len(own)}")


if __name__ == "__main__":
    main(sys.argv[1:])
