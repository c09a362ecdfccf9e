"""What lies in pipelines/cluster: read against the schemas of those that will read it."""

import argparse
import importlib.util
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

import dfscan

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "pipelines" / "cluster"

POD = {
    "containers", "volumes", "securityContext", "restartPolicy", "serviceAccountName",
    "nodeSelector", "tolerations",
}  # fmt: skip
CONTAINER = {
    "name", "image", "workingDir", "command", "args", "ports", "resources", "volumeMounts", "env",
}  # fmt: skip


def arguments(script: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """What a pipeline makes of its command line; it exits on what it does not know."""
    path = ROOT / script
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", [path.name, *words])
    found: argparse.Namespace = module._arguments()
    return found


def check_pod(template: dict[str, Any]) -> None:
    """Known fields, every mount with its volume, requests within limits."""
    pod = template["spec"]
    assert set(pod) <= POD
    volumes = {volume["name"] for volume in pod["volumes"]}
    for box in pod["containers"]:
        assert set(box) <= CONTAINER
        assert {mount["name"] for mount in box["volumeMounts"]} == volumes
        assert set(box["resources"]) == {"requests", "limits"}


def test_the_cluster_is_one_of_rays_schema() -> None:
    config = yaml.safe_load((CLUSTER / "ray-cluster.yaml").read_text())
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    kinds = config["available_node_types"]
    assert config["head_node_type"] in kinds
    assert kinds["head"]["resources"]["CPU"] == 0  # the head only drives
    assert any(kind["resources"].get("GPU") for kind in kinds.values())
    assert sum(kind.get("max_workers", 0) for kind in kinds.values()) <= config["max_workers"]
    wrong = {**config, "worker_types": {}}
    with pytest.raises(jsonschema.ValidationError, match="worker_types"):
        jsonschema.validate(wrong, schema)


def test_the_ray_job_is_one_of_kuberay(monkeypatch: pytest.MonkeyPatch) -> None:
    job = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job["spec"]) <= {
        "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished",
        "activeDeadlineSeconds", "backoffLimit", "rayClusterSpec", "runtimeEnvYAML",
        "submissionMode", "submitterPodTemplate", "clusterSelector", "suspend", "jobId",
        "metadata", "entrypointNumCpus", "entrypointNumGpus", "entrypointResources",
    }  # fmt: skip
    cluster = job["spec"]["rayClusterSpec"]
    assert set(cluster) <= {
        "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
        "workerGroupSpecs",
    }  # fmt: skip
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text()
    head = cluster["headGroupSpec"]
    assert set(head) <= {"rayStartParams", "template", "serviceType"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    check_pod(head["template"])
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == {
            "groupName", "minReplicas", "replicas", "maxReplicas", "rayStartParams", "template"
        }  # fmt: skip
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        check_pod(group["template"])
    shell, flag, script = shlex.split(job["spec"]["entrypoint"])
    assert (shell, flag) == ("sh", "-c")
    words = shlex.split(script.partition(";")[0])
    given = arguments(words[1], words[2:], monkeypatch)
    assert given.limit_time == "6h"


def test_the_cron_job_may_make_ray_jobs_and_nothing_else() -> None:
    documents = list(yaml.safe_load_all((CLUSTER / "cronjob.yaml").read_text()))
    account, role, binding, job = documents
    assert [d["kind"] for d in documents] == ["ServiceAccount", "Role", "RoleBinding", "CronJob"]
    [rule] = role["rules"]
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create"]}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert pod["restartPolicy"] == "Never"
    check_pod({"spec": pod})
    [box], [volume] = pod["containers"], pod["volumes"]
    folder = Path(box["volumeMounts"][0]["mountPath"])
    made = (CLUSTER / "cronjob.yaml").read_text().splitlines()[0]
    name, file = re.findall(r"configmap (\S+) --from-file=(\S+)", made)[0]
    assert volume["configMap"]["name"] == name
    assert box["command"][-1] == str(folder / Path(file).name)
    assert (ROOT / file).is_file()


def instructions(text: str) -> list[tuple[str, str]]:
    """Instructions of a Dockerfile and what stands after each."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cuda"])
def test_dockerfiles_copy_what_there_is(name: str) -> None:
    found = instructions((CLUSTER / name).read_text())
    assert {word for word, _ in found} <= {
        "FROM", "WORKDIR", "COPY", "RUN", "ARG", "ENV", "USER", "CMD"
    }  # fmt: skip
    stages = {rest.split(" AS ")[1] for word, rest in found if word == "FROM" and " AS " in rest}
    for word, rest in found:
        if word != "COPY":
            continue
        *sources, _ = [part for part in rest.split() if not part.startswith("--")]
        stage = re.search(r"--from=(\S+)", rest)
        if stage:
            assert stage[1] in stages
        else:
            assert all((ROOT / source).exists() for source in sources), rest
    assert [rest for word, rest in found if word == "USER"] == ["dfscan"]  # and never root again
    assert json.loads(found[-1][1])[0] == "dfscan"


def test_both_images_are_of_one_python() -> None:
    bases = {
        rest.split()[0]
        for name in ("Dockerfile", "Dockerfile.cuda")
        for word, rest in instructions((CLUSTER / name).read_text())
        if word == "FROM"
    }
    assert len(bases) == 1


def test_the_commands_of_the_page_are_ones_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "pipelines" / "README.md").read_text()
    lines = [
        shlex.split(line.partition(" -- ")[2] if " -- " in line else line)
        for block in re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    scripts = [line[1:] for line in lines if line[:1] == ["python"]]
    assert scripts
    for script, *words in scripts:
        arguments(script, words, monkeypatch)
    verbs = [line[1] for line in lines if line[:1] == ["dfscan"]]
    assert verbs
    assert set(verbs) <= set(dfscan.__all__)
