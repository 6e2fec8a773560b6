"""One Ray for all tests of the farm, a fake Blender, drivers in separate processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.farm.attempt import Program
from pipeline.farm.child import Limits
from pipeline.farm.driver import Summary, render_run
from pipeline.farm.farm_settings import FarmSettings
from pipeline.layout import RunFolder
from pipeline.run_settings import RunSettings, make_settings

# by default 15, which starves on a busy machine
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
FAKE = Program(
    blender=(str(HERE / "fake_blender.py"),), annotate="tests.farm.fake_blender:annotate_scene"
)
SETTINGS = make_settings(generator="spheres", profile="draft", width=64)
QUICK = FarmSettings(
    workers=2,
    render_cpus=1,
    generate_limits=Limits(wall=60, silent=5),
    render_limits=Limits(wall=60, silent=5),
    min_free_gib=0,
)

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from pipeline.errors import UserError
from pipeline.farm.child import Limits
from pipeline.layout import RunFolder
from tests.farm.conftest import FAKE, QUICK, SETTINGS, render_run
patient = Limits(wall=60)  # a hang must last until the test has done its part
farm = replace(
    QUICK,
    ray_address=sys.argv[4] or None,
    gpus=int(sys.argv[5]) or None,
    scratch=sys.argv[2] + "/scratch",
    generate_limits=patient,
    render_limits=patient,
)
settings = replace(SETTINGS, profile="farm" if farm.gpus else "draft")
try:
    print(render_run(RunFolder(Path(sys.argv[2])), settings, int(sys.argv[3]), farm, FAKE))
except UserError as error:
    sys.exit(str(error))
"""


class Farm:
    """OUT in a temporary folder, with planned faults beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder / "out")

    def plan(self, faults: dict[str, Any]) -> None:
        (self.folder / "faults.json").write_text(json.dumps(faults))

    def render(
        self, scenes: int, farm: FarmSettings = QUICK, settings: RunSettings = SETTINGS
    ) -> Summary:
        return render_run(self.run, settings, scenes, farm, FAKE)

    def driver(
        self,
        scenes: int,
        address: str = "",
        gpus: int = 0,
        prefix: Sequence[str] = (),
        env: Mapping[str, str | None] = {},
    ) -> subprocess.Popen[str]:
        """A driver in a separate process, on the given Ray or on one that it starts.

        Args:
            gpus: It renders on so many GPUs; none has to exist for that.
            prefix: A command that runs the driver's command.
            env: Variables that differ from this process's; None removes one.
        """
        argv = [sys.executable, "-c", DRIVER, str(CHECKOUT), str(self.run.path), str(scenes)]
        # Ray would take 127.0.0.1 for another address of this machine; see cluster.connected
        loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if address else {}
        return subprocess.Popen(
            [*prefix, *argv, address, str(gpus)],
            env={k: v for k, v in {**os.environ, **loopback, **env}.items() if v is not None},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=CHECKOUT,
        )

    def children(self) -> list[psutil.Process]:
        """Living fake Blenders of this OUT."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            command = " ".join(process.info["cmdline"] or [])
            if str(self.run.path) in command and "fake_blender.py" in command:
                found.append(process)
        return [process for process in found if process.info["status"] != psutil.STATUS_ZOMBIE]


def wait_until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """The condition's first true value; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.05)
    return value


@pytest.fixture
def farm(tmp_path: Path) -> Farm:
    return Farm(tmp_path)


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """The address of a local Ray that this process is connected to."""
    import ray

    from pipeline.farm.cluster import connected

    with connected(QUICK):
        yield ray.get_runtime_context().gcs_address


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
