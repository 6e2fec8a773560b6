"""Everything the README's table says, one after the other (`make bench`; three hours on 2 cores).

Results stay in `out-bench/`; a second call goes on where the first stopped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

RUNS = {
    "out-bench/indoors": ["GENERATOR=indoors", "PROFILE=cpu", "PANOS=1", "KEEP_SCENES=1"],
    "out-bench/rooms": ["GENERATOR=rooms", "PROFILE=draft", "PANOS=2"],
}


def main() -> None:
    for out, settings in RUNS.items():
        _run("make", "render", "SCENES=5", f"OUT={out}", *settings)
    _run(sys.executable, "-m", "tests.benchmarks.costs", *RUNS)
    scene = next(path.parent for path in sorted(Path(ROOT).glob("out-bench/indoors/*/*/*.blend")))
    _run(sys.executable, "-m", "tests.benchmarks.faces", str(scene))
    _run(sys.executable, "-m", "tests.benchmarks.first")
    for name in ("verifying", "statistics", "reading", "views", "predicting", "training"):
        _run(sys.executable, "-m", f"tests.benchmarks.{name}")


def _run(*command: str) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
