"""Available memory, also in a container, and kills by the kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.farm.child import Limits
from pipeline.farm.run_child import CGROUPS, machine_memory, oom_kills, run_child

MIB = 2**20
TOTAL = psutil.virtual_memory().total


def system(folder: Path, cgroup: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """Stand-ins of /proc and /sys/fs/cgroup."""
    files = {"proc/self/cgroup": cgroup}
    files |= {f"groups/{name}": text for name, text in limits.items()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "proc", folder / "groups"


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/job/step\n", {"job/step/memory.max": f"{64 * MIB}\n"}, 64 * MIB),
        ("0::/job/step\n", {"job/memory.max": f"{MIB}", "job/step/memory.max": "max\n"}, MIB),
        ("0::/\n", {"memory.max": f"{8 * MIB}\n"}, 8 * MIB),  # a container with its own view
        ("0::/../../host\n", {"memory.max": f"{8 * MIB}\n"}, 8 * MIB),
        (
            "5:cpu:/job\n4:memory:/job\n0::/\n",
            {"memory/job/memory.limit_in_bytes": f"{3 * MIB}", "cpu/job/memory.max": "1"},
            3 * MIB,
        ),
        (
            "4:hugetlb,memory:/docker/1d27\n",  # a container that sees the host's path
            {"memory/memory.limit_in_bytes": f"{5 * MIB}"},
            5 * MIB,
        ),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": f"{2**63 - 4096}"}, TOTAL),
        ("0::/job\n", {}, TOTAL),
    ],
)
def test_smallest_limit_counts(tmp_path, cgroup, limits, expected):
    assert machine_memory(*system(tmp_path, cgroup, limits)) == expected


def test_machine_without_control_groups(tmp_path):
    assert machine_memory(tmp_path / "proc", tmp_path / "groups") == TOTAL
    assert oom_kills(tmp_path / "proc") == 0


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A control group of 64 MiB, to be entered by writing to its cgroup.procs."""
    version_1 = (CGROUPS / "memory").is_dir()
    folder = (CGROUPS / "memory" if version_1 else CGROUPS) / f"sap-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        name = "memory.limit_in_bytes" if version_1 else "memory.max"
        try:
            (folder / name).write_text(str(64 * MIB))
        except OSError as error:
            pytest.skip(f"no control group with a limit can be made here: {error}")
        yield folder
    finally:
        folder.rmdir()


def test_kill_by_the_kernel_is_a_memory_failure(small_group, tmp_path):
    code = (
        f"import os; open('{small_group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "hoard = [bytearray(2**20) for _ in range(500)]"
    )
    before = oom_kills()
    outcome = run_child([sys.executable, "-c", code], tmp_path / "child.log", Limits(wall=20))
    assert outcome.reason == "memory"
    assert outcome.detail.startswith("the kernel ended it at")
    assert oom_kills() > before


def test_kill_by_another_process_is_a_crash(tmp_path):
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    outcome = run_child([sys.executable, "-c", code], tmp_path / "child.log", Limits(wall=20))
    assert (outcome.reason, outcome.detail) == ("crashed", "killed by SIGKILL")
