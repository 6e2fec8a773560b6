"""The Slurm script runs, on a real Ray, with stand-ins for Slurm's own commands."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.clusters.files import BIN, SLURM
from tests.farm.conftest import wait_until

SRUN = """\
import json, os, signal, subprocess, sys
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
nodes = json.loads(os.environ["NODES"])
tasks = [
    subprocess.Popen(command, env={**os.environ, **node, "SLURM_PROCID": str(number)})
    for number, node in enumerate(nodes)
]
signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
sys.exit(max(task.wait() for task in tasks))
"""
SCONTROL = """\
import json, os
for _ in json.loads(os.environ["NODES"]):
    print("127.0.0.1")
"""
# Ray itself; but it takes 127.0.0.1 for another address of the machine, and refuses a second node.
RAY = """\
import sys
from ray._private import ray_constants, services
ray_constants.ENABLE_RAY_CLUSTER = True
services.resolve_ip_for_localhost = lambda host: host
from ray.scripts.scripts import main
main()
"""
RAY_THAT_WAITS = "import time; time.sleep(60)\n"
# What `make render` is started with, and the cluster that its driver would see.
LOOK = """\
import json, os, sys
from pathlib import Path
import ray
settings = dict(word.split("=", 1) for word in sys.argv[2:])
ray.init(settings["RAY_ADDRESS"], log_to_driver=False, logging_level="ERROR")
node = ray.get(ray.remote(num_gpus=1)(lambda: os.environ["SLURM_PROCID"]).remote())
seen = {"words": sys.argv[1:], "nodes": ray.nodes(), "gpu_task_ran_on": node}
Path(os.environ["SEEN"]).write_text(json.dumps(seen))
sys.exit(7)
"""


class Job:
    """A Slurm job of this machine: a checkout, stand-ins for Slurm's commands, a number."""

    def __init__(self, folder: Path, nodes: list[dict[str, str]]) -> None:
        self.folder = folder
        self.checkout = folder / "a checkout"
        self.number = free_job_number()
        self.ray_folder = Path(f"/tmp/ray-{self.number}")
        self.bin = folder / "bin"
        self.bin.mkdir()
        (self.checkout / ".venv" / "bin").mkdir(parents=True)
        self.program(self.bin / "srun", SRUN)
        self.program(self.bin / "scontrol", SCONTROL)
        python = self.checkout / ".venv" / "bin" / "python"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "NODES": json.dumps(nodes),
            "SEEN": str(folder / "seen.json"),
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_SUBMIT_DIR": str(self.checkout),
            "SLURM_TMPDIR": str(folder / "scratch"),
        }

    def program(self, path: Path, code: str) -> None:
        source = self.folder / f"stand_in_for_{path.name}.py"  # ray.py would hide the real one
        source.write_text(code)
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{source}" "$@"\n')
        path.chmod(0o755)

    def ray(self, code: str) -> None:
        self.program(self.checkout / ".venv" / "bin" / "ray", code)

    def start(self, *settings: str) -> subprocess.Popen[str]:
        spooled = self.folder / "slurm_script"  # Slurm runs a copy that lies elsewhere
        shutil.copy(SLURM, spooled)
        return subprocess.Popen(
            ["bash", str(spooled), *settings],
            env=self.env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def processes(self) -> list[psutil.Process]:
        """Living processes of this job, whoever their parent is."""
        mine = []
        for process in psutil.process_iter(["status"]):
            try:
                if process.environ().get("SEEN") == self.env["SEEN"]:
                    mine.append(process)
            except psutil.Error:
                continue
        return [process for process in mine if process.info["status"] != psutil.STATUS_ZOMBIE]


def free_job_number() -> int:
    """A job number whose port is free here; see `port` in slurm.sh."""
    for number in range(os.getpid() * 100, os.getpid() * 100 + 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", 20000 + number % 12000))
            except OSError:
                continue
            return number
    raise AssertionError("no free port")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    made = Job(
        tmp_path,
        [
            {"SLURM_CPUS_ON_NODE": "1"},
            {"SLURM_CPUS_ON_NODE": "2", "SLURM_GPUS_ON_NODE": "1"},
        ],
    )
    yield made
    for process in made.processes():
        process.kill()
    shutil.rmtree(made.ray_folder, ignore_errors=True)


def test_the_slurm_script_is_clean_shell():
    subprocess.run(["bash", "-n", str(SLURM)], check=True)
    shellcheck = BIN / "shellcheck"
    checked = subprocess.run([str(shellcheck), str(SLURM)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert not re.search(r"\beval\b|\bray stop\b", SLURM.read_text())


def test_a_slurm_job_renders_on_a_ray_of_all_its_nodes_and_leaves_nothing(job):
    """A real Ray with two nodes; takes about a quarter of a minute."""
    job.ray(RAY)
    job.program(job.bin / "make", LOOK)
    script = job.start("SCENES=3", "PROFILE=farm", "OUT=/shared/my out")
    output = script.communicate(timeout=120)[0]
    assert script.returncode == 7, output  # the exit status of make
    assert "2 of 2 nodes are in" in output
    seen = json.loads(Path(job.env["SEEN"]).read_text())
    address = f"127.0.0.1:{20000 + job.number % 12000}"
    assert seen["words"] == [
        "render",
        f"RAY_ADDRESS={address}",
        f"SCRATCH={job.folder / 'scratch'}",
        "SCENES=3",
        "PROFILE=farm",
        "OUT=/shared/my out",
    ]
    resources = [node["Resources"] for node in seen["nodes"] if node["Alive"]]
    assert sorted((each["CPU"], each.get("GPU", 0)) for each in resources) == [(1, 0), (2, 1)]
    assert seen["gpu_task_ran_on"] == "1"
    wait_until(lambda: not job.processes())  # a worker ends a moment after its raylet
    assert not job.ray_folder.exists()


def test_a_slurm_job_whose_time_is_up_asks_the_driver_to_stop(job):
    """The driver is a child of the real make; instead of Ray something merely waits."""
    job.ray(RAY_THAT_WAITS)
    (job.checkout / "Makefile").write_text(f"render:\n\t@'{sys.executable}' driver.py\n")
    (job.checkout / "driver.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "Path('started').touch()\n"
        "import signal\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "Path('started').write_text('yes')\n"
        "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    Path('stopped').touch()\n"
    )
    # the script's own look at the cluster, which no Ray would answer here
    python = job.checkout / ".venv" / "bin" / "python"
    python.write_text("#!/bin/sh\ncat >/dev/null\necho 127.0.0.1\n")
    script = job.start()
    started = job.checkout / "started"
    end = time.monotonic() + 20
    while not (started.exists() and started.read_text()):
        assert time.monotonic() < end and script.poll() is None
        time.sleep(0.05)
    script.send_signal(signal.SIGTERM)
    output = script.communicate(timeout=20)[0]
    assert (job.checkout / "stopped").exists(), output
    assert script.returncode not in (0, None)
    wait_until(lambda: not job.processes())


@pytest.mark.parametrize("word", ["scenes=3", "clean", "-n"])
def test_the_slurm_script_takes_settings_and_nothing_else(job, word):
    job.ray(RAY_THAT_WAITS)
    script = job.start(word)
    assert f"{word} is no setting" in script.communicate(timeout=20)[0]
    assert script.returncode == 2


def test_a_slurm_job_outside_a_checkout_says_what_to_do(job):
    job.env["SLURM_SUBMIT_DIR"] = str(job.folder)
    script = job.start("SCENES=3")
    assert "submit in the checkout, after make setup" in script.communicate(timeout=20)[0]
    assert script.returncode == 2
