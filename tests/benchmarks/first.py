"""Time from `git clone` to the first 4K panorama, and to each further one of the same scene.

    python -m tests.benchmarks.first [FOLDER]

Clones this checkout's last commit into an empty folder and runs the README's first command there
(with two panoramas). The package cache of the user is used as it is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(folder: Path) -> None:
    start = time.monotonic()
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    seen: dict[str, float] = {}
    with subprocess.Popen(["make", "render", "SCENES=1", "PANOS=2"], cwd=clone) as process:
        while process.poll() is None:
            for what, pattern in {
                "installed": ".venv/stamps/render",
                "scene generated": "out/scenes/*/scene.json",
                "panorama 1": "out/scenes/*/rendered/0",
                "panorama 2": "out/scenes/*/rendered/1",
            }.items():
                if what not in seen and any(clone.glob(pattern)):
                    seen[what] = time.monotonic() - start
            time.sleep(1)
    seen["shard and page"] = time.monotonic() - start
    print("\n| reached | minutes after `git clone` began |\n|---|---|")
    for what, seconds in seen.items():
        print(f"| {what} | {seconds / 60:.1f} |")
    sys.exit(process.returncode)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
