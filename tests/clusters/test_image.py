"""The Dockerfile, as far as it can be judged without building it."""

from __future__ import annotations

import subprocess

import yaml

from pipeline.install.check import LIBRARIES
from tests.clusters.files import BIN, CLUSTERS, RAY_VERSION, ROOT, instructions


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
    assert packages - {"tests", "docs"} <= {line[1:] for line in ignored if line[0] == "!"}


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
