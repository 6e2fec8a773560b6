"""The Kubernetes manifest, held against the schemas of the programs that read it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.clusters.files import CLUSTERS, SETTINGS, SLURM, workdir

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
