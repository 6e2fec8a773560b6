"""A child under limits: however it misbehaves, its whole session is dead in the end."""

from __future__ import annotations

import _thread
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.farm import run_child as module
from pipeline.farm.attempt import Result
from pipeline.farm.child import Limits
from pipeline.farm.run_child import run_child
from tests.farm.conftest import CHECKOUT, wait_until

MIB = 2**20
WALL = Limits(wall=20)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(module, "DISK_SECONDS", 0.3)


def run(code: str, folder: Path, limits: Limits = WALL, *, writes: Path | None = None) -> Result:
    return run_child([sys.executable, "-c", code], folder / "child.log", limits, folder=writes)


def dead(pid_file: Path) -> bool:
    pid = int(pid_file.read_text())
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_good_child(tmp_path: Path) -> None:
    outcome = run("import time; sum(range(10**7)); time.sleep(0.7); print('hello')", tmp_path)
    assert outcome.ok
    assert outcome.log_tail == "hello"
    assert 0.7 < outcome.seconds < 10
    assert 0.05 < outcome.cpu_seconds < 10
    assert outcome.peak_rss > 5 * MIB


def test_endless_output_breaks_the_time_limit(tmp_path: Path) -> None:
    code = "import time\nwhile True: print('still here'); time.sleep(0.1)"
    outcome = run(code, tmp_path, Limits(wall=1, silent=0.5))
    assert outcome.reason == "timeout"
    assert "still here" in outcome.log_tail
    assert outcome.seconds < 5


def test_full_log_is_a_limit(tmp_path: Path) -> None:
    outcome = run("while True: print('x' * 10000)", tmp_path, Limits(wall=20, log=MIB))
    assert outcome.reason == "size"
    assert (tmp_path / "child.log").stat().st_size < MIB


def test_silent_child_is_killed(tmp_path: Path) -> None:
    outcome = run("import time; print('hi'); time.sleep(1000)", tmp_path, Limits(silent=1))
    assert (outcome.reason, outcome.log_tail) == ("silent", "hi")
    assert outcome.seconds < 5


def test_memory_is_limited(tmp_path: Path) -> None:
    code = "import time; hoard = bytearray(300 << 20); time.sleep(1000)"
    outcome = run(code, tmp_path, Limits(wall=20, memory=200 * MIB))
    assert outcome.reason == "memory"
    assert outcome.peak_rss > 200 * MIB
    assert outcome.seconds < 10


def test_grandchildren_count_for_memory(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys\n"
        "hoard = 'import time; hoard = bytearray(150 << 20); time.sleep(1000)'\n"
        "both = [subprocess.Popen([sys.executable, '-c', hoard]) for _ in range(2)]\n"
        "both[0].wait()"
    )
    outcome = run(code, tmp_path, Limits(wall=20, memory=250 * MIB))
    assert outcome.reason == "memory"


def test_no_child_gets_the_whole_machine() -> None:
    total = psutil.virtual_memory().total
    assert module.memory_limit(Limits(memory=100 * total)) == int(0.9 * total)
    assert module.memory_limit(Limits(memory=MIB)) == MIB
    assert module.memory_limit(Limits()) is None


def test_folder_size_is_limited(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    scene.mkdir()
    code = f"import time; open('{scene}/big', 'wb').write(bytes(20 << 20)); time.sleep(1000)"
    outcome = run(code, tmp_path, Limits(wall=20, disk=10 * MIB), writes=scene)
    assert outcome.reason == "size"


@pytest.mark.parametrize(
    ("code", "reason", "detail"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "SIGSEGV"),
        ("raise KeyError('chair')", "crashed", "exit status 1: KeyError: 'chair'"),
        ("print('rejected: too dark'); raise SystemExit(3)", "rejected", "too dark"),
        ("raise SystemExit(3)", "crashed", "exit status 3"),
        ("print('damaged: scene.blend'); raise SystemExit(4)", "damaged", "scene.blend"),
        ("raise SystemExit(4)", "crashed", "exit status 4"),
        ("raise OSError(122, 'Disk quota exceeded')", "scratch", "quota"),
        ("raise OSError(28, 'No space left on device')", "scratch", "No space"),
    ],
)
def test_reason(code: str, reason: str, detail: str, tmp_path: Path) -> None:
    outcome = run(code, tmp_path)
    assert outcome.reason == reason
    assert detail in outcome.detail
    assert "\n" not in outcome.detail


GRANDCHILD = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
open({pid_file!r}, "w").write(str(child.pid))
time.sleep({seconds})
"""


@pytest.mark.parametrize("seconds", [0, 1000])
def test_nothing_of_the_session_survives(seconds: int, tmp_path: Path) -> None:
    pid_file = tmp_path / "grandchild"
    code = GRANDCHILD.format(pid_file=str(pid_file), seconds=seconds)
    outcome = run(code, tmp_path, Limits(silent=1))
    assert outcome.reason == ("silent" if seconds else "ok")
    assert dead(pid_file)


def test_ctrl_c_in_the_supervisor_kills_the_child(tmp_path: Path) -> None:
    pid_file = tmp_path / "grandchild"
    code = GRANDCHILD.format(pid_file=str(pid_file), seconds=1000)
    threading.Timer(0.5, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        run(code, tmp_path)
    assert dead(pid_file)


def test_child_dies_with_a_killed_supervisor(tmp_path: Path) -> None:
    child = (
        "import os, time\n"
        "from pipeline.farm.child import die_with_parent\n"
        "die_with_parent()\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        "time.sleep(1000)"
    )
    watcher = (
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.farm.child import Limits\n"
        "from pipeline.farm.run_child import run_child\n"
        f"run_child([sys.executable, '-c', {child!r}], Path({str(tmp_path)!r}) / 'log', Limits())"
    )
    process = subprocess.Popen([sys.executable, "-c", watcher], cwd=CHECKOUT)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    assert not dead(tmp_path / "pid")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_until(lambda: dead(tmp_path / "pid"), seconds=2)


def test_child_of_a_dead_supervisor_does_not_start() -> None:
    code = "from pipeline.farm.child import die_with_parent; die_with_parent()"
    gone = {**os.environ, "SAP_FARM_PARENT": "1"}
    by_hand = {name: value for name, value in gone.items() if name != "SAP_FARM_PARENT"}
    argv = [sys.executable, "-c", code]
    assert subprocess.run(argv, env=gone, cwd=CHECKOUT).returncode == -signal.SIGKILL
    assert subprocess.run(argv, env=by_hand, cwd=CHECKOUT).returncode == 0


def test_secrets_stay_behind() -> None:
    own = {"HF_TOKEN": "x", "HUGGING_FACE_HUB_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "A": "b"}
    child = module.child_environment(own, {"OMP_NUM_THREADS": "2"})
    assert child["A"] == "b"
    assert child["OMP_NUM_THREADS"] == "2"
    assert "x" not in child.values()


def test_full_disk_is_recognised_without_a_message(small_disk: Path) -> None:
    code = f"import os\nfile = open('{small_disk}/big', 'wb')\nfile.write(bytes(100 << 20))"
    outcome = run(code, small_disk)
    assert outcome.reason == "scratch"
    started = time.monotonic()
    outcome = run("import os; os._exit(1)", small_disk)  # says nothing at all
    assert outcome.reason == "scratch"
    assert time.monotonic() - started < 5
