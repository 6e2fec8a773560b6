"""The ways to start a cluster that `pipeline/clusters` ships, as far as one machine can try them.

The Slurm script runs, on a real Ray, with stand-ins for Slurm's own commands. The manifests are
held against the schemas of the programs that read them; no cluster is there to run them.
"""

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
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipeline.install.check import LIBRARIES

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "pipeline" / "clusters"
SLURM = CLUSTERS / "slurm.sh"
BIN = Path(sys.executable).parent  # shellcheck and hadolint lie beside this Python
RAY_VERSION = next(
    line.removeprefix("ray==")
    for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    if line.startswith("ray==")
)
SETTINGS = set(
    re.search(r"^SETTINGS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    .replace("\\\n", " ")
    .split()
)

# ---- Slurm -------------------------------------------------------------------------------------

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
    assert not job.processes()
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
    assert not job.processes()


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


# ---- hosts over SSH ----------------------------------------------------------------------------


def test_rays_launcher_accepts_the_hosts():
    """As `ray up` reads the file, up to the first connection."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    written = yaml.safe_load((CLUSTERS / "hosts.yaml").read_text())
    config = prepare_config(written)
    validate_config(config)
    kind = config["available_node_types"]["local.cluster.node"]
    workers = len(written["provider"]["worker_ips"])
    assert (kind["min_workers"], kind["max_workers"]) == (workers, workers)  # idle ones stay


def test_the_launcher_sets_the_head_up_before_it_starts_ray_there(tmp_path):
    """The real `ray up`, with an ssh and an rsync that only write down what they were to do."""
    home, bin_folder, said = tmp_path / "home", tmp_path / "bin", tmp_path / "said"
    for secret in (".ray/auth_token", ".ssh/id_ed25519"):
        (home / secret).parent.mkdir(parents=True)
        (home / secret).write_text("secret")
    bin_folder.mkdir()
    for name in ("ssh", "rsync"):
        (bin_folder / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{said}"\n')
        (bin_folder / name).chmod(0o755)
    launched = subprocess.run(
        [
            *(sys.executable, "-m", "ray.scripts.scripts"),
            *("up", "--yes", "--no-config-cache", str(CLUSTERS / "hosts.yaml")),
        ],
        env={
            **os.environ,
            "HOME": str(home),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "RAY_TMPDIR": str(tmp_path),
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert launched.returncode == 0, launched.stdout + launched.stderr
    steps = said.read_text()
    head = "panorama@192.0.2.10"
    order = [
        f"{home}/.ray/auth_token {head}:~/.ray/auth_token",
        f"{home}/.ssh/id_ed25519 {head}:",
        'cd /shared/sap-panorama && make setup EXTRAS="render hub"',
        "/shared/sap-panorama/.venv/bin/ray stop",
        "/shared/sap-panorama/.venv/bin/ray start --head --port=6379",
    ]
    places = [steps.find(step) for step in order]
    assert -1 not in places and places == sorted(places), steps
    assert "192.0.2.11" not in steps  # the head starts the workers


def test_ray_knows_the_options_that_hosts_and_slurm_start_it_with():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    config = yaml.safe_load((CLUSTERS / "hosts.yaml").read_text())
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    node = SLURM.read_text().split("<<'NODE'")[1].split("\nNODE\n")[0]
    used = set(re.findall(r"(--[a-z-]+)", " ".join([*commands, node])))
    assert {"--head", "--address", "--block"} < used <= known


# ---- Kubernetes --------------------------------------------------------------------------------

KUBERNETES = "1.32"
# The fields of KubeRay's ray.io/v1 API, as its Go types name them (ray-operator/apis/ray/v1).
RAY_JOB = {
    *(
        "activeDeadlineSeconds",
        "backoffLimit",
        "rayClusterSpec",
        "submitterPodTemplate",
        "metadata",
    ),
    *("clusterSelector", "submitterConfig", "managedBy", "deletionStrategy", "entrypoint"),
    *("runtimeEnvYAML", "jobId", "submissionMode", "entrypointResources", "entrypointNumCpus"),
    *("entrypointNumGpus", "ttlSecondsAfterFinished", "shutdownAfterJobFinishes", "suspend"),
    "metadata",
}
RAY_CLUSTER = {
    *("suspend", "managedBy", "authOptions", "autoscalerOptions", "headServiceAnnotations"),
    *("enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion"),
    "workerGroupSpecs",
}
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKERS = {
    *("suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds"),
    *("rayStartParams", "template", "scaleStrategy", "numOfHosts"),
}
AUTOSCALER = {
    *("resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds"),
    *("upscalingMode", "version", "env", "envFrom", "volumeMounts"),
}


@pytest.fixture
def manifest() -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())


def groups(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The head's group and the workers'."""
    cluster = manifest["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_the_manifest_has_no_field_that_kuberay_does_not_know(manifest):
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(manifest["spec"]) <= RAY_JOB
    cluster = manifest["spec"]["rayClusterSpec"]
    assert set(cluster) <= RAY_CLUSTER
    assert set(cluster["autoscalerOptions"]) <= AUTOSCALER
    head, *workers = groups(manifest)
    assert set(head) <= HEAD
    for group in workers:
        assert (
            {"groupName", "minReplicas", "maxReplicas", "rayStartParams"} <= set(group) <= WORKERS
        )
        # with no pod of a group the driver would find no CPU, or no GPU, when it starts
        assert 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (head, *workers):
        assert all(type(value) is str for value in group["rayStartParams"].values())
    assert manifest["spec"]["backoffLimit"] > 0 and manifest["spec"]["shutdownAfterJobFinishes"]


def test_kubernetes_own_schema_accepts_the_pods(manifest):
    import kubernetes_validate

    for group in groups(manifest):
        pod = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "pod"},
            "template": group["template"],
        }
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        pod["template"]["spec"]["containers"][0]["imagee"] = "a typo"
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_every_pod_has_credentials_and_the_scratch_folder_that_the_driver_names(manifest):
    scratch = settings_of(manifest)["SCRATCH"]
    for group in groups(manifest):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["envFrom"][0]["secretRef"]["name"]
        assert {"name": "SCRATCH", "value": scratch} in container["env"]
        (mount,) = container["volumeMounts"]
        (volume,) = pod["volumes"]
        assert mount == {"name": volume["name"], "mountPath": scratch}
        assert volume["emptyDir"]["sizeLimit"]
        assert pod["securityContext"]["runAsNonRoot"] is True
    head, *workers = groups(manifest)
    assert head["rayStartParams"]["num-cpus"] == "0"
    gpus = [
        group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        for group in workers
    ]
    assert gpus == [None, "1"]


def settings_of(manifest: dict[str, Any]) -> dict[str, str]:
    words = manifest["spec"]["entrypoint"].split()
    assert words[:4] == ["make", "-C", workdir(), "render"]
    return dict(word.split("=", 1) for word in words[4:])


def test_the_manifest_and_the_slurm_script_give_settings_that_the_makefile_knows(manifest):
    given = settings_of(manifest)
    assert {"RAY_ADDRESS", "OUT", "SCENES", "PROFILE", "SCRATCH"} == set(given) <= SETTINGS
    assert given["RAY_ADDRESS"] == "auto" and given["OUT"].startswith("s3://")
    line = next(line for line in SLURM.read_text().splitlines() if line.startswith("make render"))
    assert set(re.findall(r"([A-Z_]+)=", line)) <= SETTINGS


# ---- the image ---------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, lines joined, comments left out."""
    lines = (CLUSTERS / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined if line)]


def workdir() -> str:
    return next(rest for word, rest in instructions() if word == "WORKDIR")


def test_the_dockerfile_is_clean():
    hadolint = BIN / "hadolint"
    checked = subprocess.run(
        [str(hadolint), str(CLUSTERS / "Dockerfile")], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout
    known = {"FROM", "RUN", "ENV", "USER", "WORKDIR", "COPY"}
    assert {word for word, _ in instructions()} <= known


def test_what_the_image_copies_exists_and_reaches_docker():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    for word, rest in instructions():
        if word != "COPY":
            continue
        *sources, _ = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    packages = {path.split("/")[0] for path in listed if "/" in path and path[0] != "."}
    assert packages - {"tests"} <= {line[1:] for line in ignored if line[0] == "!"}


def test_the_image_has_the_libraries_that_setup_asks_for_and_the_pinned_ray():
    text = " ".join(rest for word, rest in instructions() if word == "RUN")
    words = set(text.split())
    # libgomp1: bpy loads it, and python's slim image has none; wget: KubeRay's probes
    assert {*LIBRARIES.values(), "libegl1", "libgomp1", "make", "wget"} <= words
    assert f'"ray[default]=={RAY_VERSION}"' in words
    manifest = yaml.safe_load((CLUSTERS / "kuberay.yaml").read_text())
    assert manifest["spec"]["rayClusterSpec"]["rayVersion"] == RAY_VERSION
    users = [rest for word, rest in instructions() if word == "USER"]
    uid = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]
    assert users[-1] == str(uid["runAsUser"]) != "0"
