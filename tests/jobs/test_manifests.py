"""cluster.yaml and jobs/kuberay: valid by the tools that read them, and as the documents say they are."""

import inspect
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.dashboard.modules.job import job_supervisor

from cxr_ray.config import NightlyConfig, load_yaml
from tests.jobs.kuberay_fields import RAY_JOB

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.34"


def documents(name: str) -> list[dict[str, Any]]:
    """The documents of one YAML file of the project."""
    return list(yaml.safe_load_all((ROOT / name).read_text(encoding="utf-8")))


def cluster() -> dict[str, Any]:
    """cluster.yaml as Ray's launcher completes it."""
    return prepare_config(documents("cluster.yaml")[0])


def ray_job() -> dict[str, Any]:
    return documents("jobs/kuberay/rayjob.yaml")[0]


def groups() -> list[dict[str, Any]]:
    """The head's group and those of the workers."""
    spec = ray_job()["spec"]["rayClusterSpec"]
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def test_cluster_yaml_passes_ray_s_own_validation():
    validate_config(cluster())


def test_cluster_yaml_has_a_head_without_work_and_workers_that_scale_from_nothing():
    kinds = cluster()["available_node_types"]
    assert kinds.pop("head")["resources"] == {"CPU": 0, "GPU": 0}
    assert {kind["min_workers"] for kind in kinds.values()} == {0}
    assert sorted(kind["resources"].get("GPU", 0) for kind in kinds.values()) == [0, 1]
    for kind in kinds.values():
        assert kind["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": "cxr-ray-worker"}


def test_cluster_yaml_installs_nothing_on_the_nodes_and_shares_a_token():
    config = cluster()
    assert (config["setup_commands"], config["head_setup_commands"], config["worker_setup_commands"]) == ([], [], [])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    (place,) = config["file_mounts"]
    assert f"--env RAY_AUTH_TOKEN_PATH={place}" in config["docker"]["run_options"]


def test_manifests_leave_time_for_a_drain_under_the_name_that_ray_reads():
    name = "RAY_JOB_STOP_WAIT_TIME_S"
    assert name in inspect.getsource(job_supervisor)
    assert f"--env {name}=600" in cluster()["docker"]["run_options"]
    pod = ray_job()["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    waits = {item["name"]: item.get("value") for item in pod["containers"][0]["env"]}[name]
    assert pod["terminationGracePeriodSeconds"] > int(waits) == 600


@pytest.mark.parametrize("name", ["access", "schedule"])
def test_kubernetes_objects_pass_its_own_schema(name):
    for document in documents(f"jobs/kuberay/{name}.yaml"):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_ray_job_has_the_fields_of_kuberay_and_pods_of_kubernetes():
    jsonschema.validate(ray_job(), RAY_JOB)
    for group in groups():
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}, "template": group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "shutdownAfterJobFinish"], True),
        (["spec", "backoffLimit"], "2"),
        (["spec", "submissionMode"], "K8sJob"),
        (["spec", "rayClusterSpec", "authOptions", "mode"], "password"),
        (["spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"], 0),
    ],
)
def test_ray_job_with_a_slip_is_refused(path, value):
    job = ray_job()
    place = job
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, RAY_JOB)


def test_ray_job_is_read_by_ray_s_autoscaler_as_meant():
    resource = {"metadata": {"name": "night", "namespace": "cxr-ray"}, "spec": ray_job()["spec"]["rayClusterSpec"]}
    kinds = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    found = {name: (kind["min_workers"], kind["resources"].get("GPU", 0)) for name, kind in kinds.items()}
    assert found == {"headgroup": (0, 0), "gpu": (0, 1), "cpu": (0, 0)}
    assert kinds["headgroup"]["resources"]["CPU"] == 0


def test_nodes_that_a_night_waits_for_can_come():
    wanted = load_yaml(NightlyConfig, ROOT / "jobs" / "nightly.yaml").cluster
    resource = {"metadata": {"name": "night", "namespace": "cxr-ray"}, "spec": ray_job()["spec"]["rayClusterSpec"]}
    read = autoscaling_config._derive_autoscaling_config_from_ray_cr(resource)["available_node_types"]
    for kinds in (cluster()["available_node_types"], read):
        for name, amount in (("GPU", wanted.gpus), ("CPU", wanted.cpus)):
            assert sum(kind["max_workers"] * kind["resources"].get(name, 0) for kind in kinds.values()) >= amount


def test_schedule_may_create_the_ray_job_and_mounts_it():
    (schedule,) = documents("jobs/kuberay/schedule.yaml")
    access = {(item["kind"], item["metadata"]["name"]): item for item in documents("jobs/kuberay/access.yaml")}
    pod = schedule["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    account = pod["serviceAccountName"]
    assert access["RoleBinding", account]["subjects"][0]["name"] == account
    assert access["Role", account]["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}
    ]
    mount = pod["containers"][0]["volumeMounts"][0]["mountPath"]
    assert pod["containers"][0]["args"] == ["create", f"--filename={mount}/rayjob.yaml"]
    assert all(group["template"]["spec"]["serviceAccountName"] == "cxr-ray" for group in groups())
    assert ("ServiceAccount", "cxr-ray") in access
