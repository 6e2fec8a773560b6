"""The hosts' file, held against Ray's own launcher."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import yaml

from tests.clusters.files import CLUSTERS, SLURM


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
