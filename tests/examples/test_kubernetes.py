"""The manifests for Kueue and Argo Workflows fit their schemas and the client."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from maisi_client._cli.parser import parser

from tests.conftest import ROOT
from tests.docker import tools
from tests.examples.kueue import SCHEMAS

KUBERNETES = "1.33"
FOLDER = ROOT / "examples" / "kubernetes"
Document = dict[str, Any]


def read(name: str) -> dict[str, Document]:
    """Return the objects of a file by their kinds."""
    return {one["kind"]: one for one in yaml.safe_load_all((FOLDER / name).read_text())}


KUEUE = read("kueue.yaml")
(ARGO,) = read("argo.yaml").values()
JOB = KUEUE["Job"]
MAKE: Document = next(one for one in ARGO["spec"]["templates"] if one["name"] == "make")
PODS = {
    "kueue": {**JOB["spec"]["template"]["spec"]},
    "argo": {**ARGO["spec"], "containers": [MAKE["container"]]},
}


def test_kubernetes_accepts_the_job(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    validate = Path(sys.executable).with_name("kubernetes-validate")
    report = tools.run(validate, "-k", KUBERNETES, "--strict", tmp_path / "job.yaml")
    assert report.count("passed for resource") == 1


def test_kueue_accepts_its_objects() -> None:
    assert KUEUE.keys() == {*SCHEMAS, "Job"}
    for kind, schema in SCHEMAS.items():
        jsonschema.validate(KUEUE[kind], schema)
        with pytest.raises(jsonschema.ValidationError, match="nominal"):
            jsonschema.validate({**KUEUE[kind], "spec": {"nominal": 1}}, schema)
    wrong = copy.deepcopy(KUEUE["ClusterQueue"])
    wrong["spec"]["resourceGroups"][0]["flavors"][0]["resources"][0]["nominalQuota"] = "two"
    with pytest.raises(jsonschema.ValidationError, match="two"):
        jsonschema.validate(wrong, SCHEMAS["ClusterQueue"])


def test_the_job_goes_to_the_queue_and_fits_its_quota() -> None:
    local, cluster = KUEUE["LocalQueue"], KUEUE["ClusterQueue"]["spec"]
    assert JOB["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": local["metadata"]["name"]}
    assert JOB["metadata"]["namespace"] == local["metadata"]["namespace"]
    assert local["spec"]["clusterQueue"] == KUEUE["ClusterQueue"]["metadata"]["name"]
    (group,) = cluster["resourceGroups"]
    (flavor,) = group["flavors"]
    assert flavor["name"] == KUEUE["ResourceFlavor"]["metadata"]["name"]
    # As the CRD's rule demands.
    assert [one["name"] for one in flavor["resources"]] == group["coveredResources"]
    assert JOB["spec"]["suspend"] is True
    (container,) = PODS["kueue"]["containers"]
    requests, pods = container["resources"]["requests"], JOB["spec"]["parallelism"]
    assert (requests, pods) == ({"cpu": "250m", "memory": "1Gi"}, 8)
    quota = {one["name"]: one["nominalQuota"] for one in flavor["resources"]}
    assert quota == {"cpu": "2", "memory": "8Gi"}  # 8 times the requests


def test_argo_accepts_the_template() -> None:
    schema = "argo-workflows/argoproj.io/v1alpha1/WorkflowTemplate"
    assert tools.complaint(tools.argo_schemas(), schema, ARGO) == ""
    wrong = copy.deepcopy(ARGO)
    wrong["spec"]["templates"][0]["dag"]["tasks"][0]["withSequence"] = 8
    assert "withSequence" in tools.complaint(tools.argo_schemas(), schema, wrong)


def arguments(shard: str) -> list[str]:
    """Return the arguments of a pod of the workflow as Argo fills them in."""
    values = {
        f"workflow.parameters.{one['name']}": one["value"]
        for one in ARGO["spec"]["arguments"]["parameters"]
    }
    assert [one["name"] for one in MAKE["inputs"]["parameters"]] == ["shard"]
    values["inputs.parameters.shard"] = shard.replace("{{item}}", "7")

    def filled(text: str) -> str:
        return re.sub(r"\{\{([^}]+)\}\}", lambda match: values[match[1]], text)

    return [filled(filled(word)) for word in MAKE["container"]["args"]]


def test_the_client_accepts_the_arguments_of_every_shard() -> None:
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "7") for word in
             PODS["kueue"]["containers"][0]["args"]]  # fmt: skip
    assert parser().parse_args(words).shard == (7, JOB["spec"]["completions"])
    assert JOB["spec"]["completionMode"] == "Indexed"
    shards, rest = ARGO["spec"]["templates"][0]["dag"]["tasks"]
    assert shards["template"] == rest["template"] == "make"
    assert shards["withSequence"] == {"count": "{{workflow.parameters.shards}}"}
    parsed = []
    for task in (shards, rest):
        (parameter,) = task["arguments"]["parameters"]
        parsed.append(parser().parse_args(arguments(parameter["value"])))
    assert [one.shard for one in parsed] == [(7, 8), (0, 1)]
    assert {(one.plan, one.to, one.layout) for one in parsed} == {
        ("/data/plan.csv", "/data/dataset", "plain")
    }


@pytest.mark.parametrize("pod", PODS.values(), ids=PODS)
def test_pods_have_no_rights_and_bounded_resources(pod: Document) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"]["memory"]
    values = yaml.safe_load((ROOT / "docker" / "helm" / "maisi" / "values.yaml").read_text())
    assert container["image"] == values["dataset"]["image"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"data": "/data", "tmp": "/tmp"}
    assert {volume["name"] for volume in pod["volumes"]} == mounts.keys()
