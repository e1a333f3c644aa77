"""The chart renders in every case, as Kubernetes' schemas and our policies demand."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from maisi_client._cli.parser import parser

from export import __main__ as export
from server import __main__ as serve
from tests.docker import tools
from tests.docker.chart import CASES, CHART, GOLDEN, pods, refusal, template

KUBERNETES = "1.33"
# Kinds that are not Kubernetes' own, and their schemas; KServe publishes none for npm.
CUSTOM = {
    "ScaledObject": "keda/keda.sh/v1alpha1/ScaledObject",
    "PodMonitor": "prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "PrometheusRule": "prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "GRPCRoute": "gateway-api/gateway.networking.k8s.io/v1/GRPCRoute",
}
UNKNOWN = {"ServingRuntime", "InferenceService"}


def complaint(document: dict[str, Any]) -> str:
    """Return the error of a custom kind's schema for a document, empty where it is valid."""
    return tools.complaint(tools.schemas(), CUSTOM[document["kind"]], document)


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return template(*request.param)


def test_helm_lint_reports_nothing() -> None:
    report = tools.run(tools.helm(), "lint", "--strict", CHART)
    assert "[ERROR]" not in report and "[WARNING]" not in report


def test_kubernetes_schemas_accept_it(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    own = [document for document in documents if document["kind"] not in {*CUSTOM, *UNKNOWN}]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump_all(own))
    validate = Path(sys.executable).with_name("kubernetes-validate")
    report = tools.run(validate, "-k", KUBERNETES, "--strict", tmp_path / "own.yaml")
    assert report.count("passed for resource") == len(own) >= 4
    for document in documents:
        if document["kind"] in CUSTOM:
            assert complaint(document) == ""


def test_the_schemas_of_custom_kinds_refuse_what_is_wrong() -> None:
    wrong = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "spec": {"triggers": 1}}
    assert "triggers" in complaint(wrong)
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "spec": []}
    assert "spec" in complaint(rule)


def test_pods_have_no_rights_and_bounded_resources(documents: list[dict[str, Any]]) -> None:
    containers: list[dict[str, Any]] = []
    for pod in pods(documents, "Deployment", "Job"):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
        assert not [volume for volume in pod["volumes"] if "hostPath" in volume]
        containers += [*pod["containers"], *pod.get("initContainers", [])]
    for container in containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False and not context.get("privileged")
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert ":latest" not in container["image"] and re.search(r"[:@]", container["image"])


def test_probes_ask_for_a_real_volume_and_a_stop_waits_for_one(
    documents: list[dict[str, Any]],
) -> None:
    (pod,) = pods(documents)
    (server,) = pod["containers"]
    names = {port["name"]: port["containerPort"] for port in server["ports"]}
    for probe, path in (("startup", "/ready"), ("readiness", "/ready"), ("liveness", "/live")):
        settings = server[f"{probe}Probe"]
        assert settings["httpGet"] == {"path": path, "port": "status"} and names["status"] == 8003
        assert settings["timeoutSeconds"] > 60  # server/health.py: what a smallest volume may take
    seconds = {
        name: float(value)
        for name, _, value in (word.removeprefix("--").partition("=") for word in server["args"])
        if name.endswith("-seconds")
    }
    shortest = server["lifecycle"]["preStop"]["sleep"]["seconds"] + seconds["drain-seconds"]
    assert pod["terminationGracePeriodSeconds"] >= shortest + 15 + 5  # GRACE, EXIT
    startup = server["startupProbe"]
    assert startup["failureThreshold"] * startup["periodSeconds"] >= seconds["start-seconds"]


def test_the_network_is_closed_but_for_clients_and_scrapers(
    documents: list[dict[str, Any]],
) -> None:
    (policy,) = [x["spec"] for x in documents if x["kind"] == "NetworkPolicy"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    traced = "--trace-endpoint" in yaml.safe_dump_all(documents)
    assert bool(policy["egress"]) == traced  # no case has a bucket
    for rule in policy["ingress"]:
        assert rule["from"] and all(rule["from"])
        ports = {entry["port"] for entry in rule["ports"]}
        assert ports in ({"grpc"}, {"metrics", "status"})
    deployments = [x for x in documents if x["kind"] == "Deployment"]
    for document in deployments:
        labels = document["spec"]["template"]["metadata"]["labels"]
        selected = [x["spec"] for x in documents if x["kind"] in ("Service", "NetworkPolicy")]
        for spec in selected:
            selector = spec.get("selector") or spec["podSelector"]["matchLabels"]
            assert selector.items() <= labels.items()


def test_the_programs_accept_the_charts_arguments(documents: list[dict[str, Any]]) -> None:
    (pod,) = pods(documents)
    (server,) = pod["containers"]
    options = serve.arguments(server["args"])
    assert options.host == "0.0.0.0" and options.max_waiting == 8
    for container in pod.get("initContainers", []):
        if container["args"][0] == "build":
            options = export._parser().parse_args(container["args"])
            assert (options.variant, options.cache) == ("rflow-ct", Path("/models/cache"))


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        ({}, (None, None, None)),
        ({"maxSeconds": 604800, "memoryGb": 6.5, "spillGb": 200}, (604800, 6.5, 200.0)),
        ({"maxSeconds": 31536000, "memoryGb": 64, "spillGb": 0}, (31536000, 64.0, 0.0)),
    ],
)
def test_limits_of_a_request_are_options_of_the_server(
    values: dict[str, float], limits: tuple[float | None, ...], tmp_path: Path
) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({"server": values}))
    (pod,) = pods(template(f"--values={tmp_path / 'values.yaml'}"))
    options = serve.arguments(pod["containers"][0]["args"])
    assert (options.max_seconds, options.memory_gb, options.spill_gb) == limits


@pytest.mark.parametrize("bfloat16", [False, True])
def test_bfloat16_is_an_option_of_the_server(bfloat16: bool) -> None:
    (pod,) = pods(template(f"--set=server.bfloat16={str(bfloat16).lower()}"))
    assert serve.arguments(pod["containers"][0]["args"]).bfloat16 == bfloat16


@pytest.mark.parametrize(("count", "numbers"), [(0, "none"), (1, "0"), (3, "0,1,2")])
def test_networks_are_placed_on_the_gpus_of_a_pod(count: int, numbers: str) -> None:
    (pod,) = pods(template(f"--set=gpus={count}"))
    (server,) = pod["containers"]
    assert serve.arguments(server["args"]).gpus == numbers
    assert server["resources"]["limits"].get("nvidia.com/gpu", 0) == count
    (shm,) = [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == "shm"]
    # 40 bytes a voxel for each volume that is made, one for each of 8 that wait; 256^3 voxels.
    assert shm["sizeLimit"] == f"{512 + 16 * (40 * max(1, count) + 8)}Mi"


def test_a_job_with_a_pod_for_each_shard_makes_a_dataset() -> None:
    documents = template("--set=dataset.enabled=true,dataset.claim=data,dataset.shards=3")
    (job,) = [x["spec"] for x in documents if x["kind"] == "Job"]
    assert (job["completionMode"], job["completions"]) == ("Indexed", 3)
    (container,) = job["template"]["spec"]["containers"]
    words = [word.replace("$(JOB_COMPLETION_INDEX)", "2") for word in container["args"]]
    options = parser().parse_args(words)
    assert (options.shard, options.url) == ((2, 3), "maisi.imaging.svc:8001")
    (policy,) = [x["spec"] for x in documents if x["kind"] == "NetworkPolicy"]
    (peer,) = policy["ingress"][0]["from"]
    labels = job["template"]["metadata"]["labels"]
    assert peer["podSelector"]["matchLabels"] == labels


def test_texts_and_numbers_stay_what_they_are(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    plan, host = "my plan #2: a.csv", "*.example.org"
    server = {"version": 20250101, "maxWaiting": 1000000, "stallSeconds": 2000000}
    dataset = {"enabled": True, "claim": "data", "plan": plan, "to": "a: b #1"}
    gateway = {"gateway": {"name": "edge", "namespace": "gateways", "hostname": host}}
    all_values = {"server": server, "dataset": dataset, "service": gateway}
    values.write_text(yaml.safe_dump(all_values))
    documents = template(f"--values={values}")
    (pod,) = pods(documents)
    words = pod["containers"][0]["args"]
    for word in ("--version=20250101", "--max-waiting=1000000", "--stall-seconds=2000000"):
        assert word in words
    (job,) = pods(documents, "Job")
    assert job["containers"][0]["args"][1:3] == [f"/data/{plan}", "--to=/data/a: b #1"]
    (route,) = [x["spec"] for x in documents if x["kind"] == "GRPCRoute"]
    assert route["hostnames"] == [host]


def test_only_shared_memory_and_tmp_are_writable(
    documents: list[dict[str, Any]],
) -> None:
    (pod,) = pods(documents)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in pod["containers"][0]["volumeMounts"]:
        writable = not mount.get("readOnly")
        assert writable == (mount["mountPath"] in ("/tmp", "/dev/shm"))
        if mount["mountPath"] == "/dev/shm":
            assert volumes[mount["name"]]["emptyDir"]["medium"] == "Memory"
            assert volumes[mount["name"]]["emptyDir"]["sizeLimit"] in ("1280Mi", "6656Mi")


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_is_as_it_was_reviewed(case: str) -> None:
    """Compare with golden files. UPDATE_GOLDEN=1 writes them; then read the difference."""
    golden = GOLDEN / f"{case}.yaml"
    documents = [
        document
        for document in template(*CASES[case])
        if document["kind"] not in ("ConfigMap", "PrometheusRule")  # files of their own
    ]
    text = yaml.safe_dump_all(documents, sort_keys=True, width=100)
    if UPDATE:
        golden.write_text(text)
    assert text == golden.read_text()


UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))

WRONG = {
    "unknown": (["--set=serevr.version=1"], "serevr"),
    "source": (["--set=models.source=ftp"], "source"),
    "claim": (["--set=models.source=claim"], "models.claim names the PersistentVolumeClaim"),
    "weights": (["--set=models.source=build"], "models.build.weightsClaim has the checkpoints"),
    "digest": (["--set=image.digest=sha256:1"], "digest"),
    "variant": (["--set=server.variants={a b}"], "variants"),
    "gpus": (["--set=gpus=-1"], "gpus"),
    "queue": (["--set=server.maxWaiting=0"], "maxWaiting"),
    "seconds": (["--set=server.maxSeconds=0"], "maxSeconds"),
    "memory": (["--set=server.memoryGb=0"], "memoryGb"),
    "files": (["--set=server.spillGb=-1"], "spillGb"),
    "dataset": (["--set=dataset.enabled=true"], "dataset.claim has the plan"),
    "bucket": (["--set=models.source=s3,models.s3.url=http://x"], "url"),
}


@pytest.mark.parametrize(("args", "name"), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_refused_by_name(args: list[str], name: str) -> None:
    assert name in refusal(*args)


def test_a_kubernetes_without_the_sleep_before_a_stop_is_refused() -> None:
    assert ">=1.30.0-0" in refusal("--kube-version=1.29.9")
    template("--kube-version=1.30.0")


def test_models_come_from_a_bucket() -> None:
    documents = template("--set=models.source=s3,models.s3.url=s3://weights/maisi")
    (pod,) = pods(documents)
    (fetch,) = pod["initContainers"]
    assert fetch["args"][1:] == [":s3,env_auth,provider=AWS:weights/maisi", "/models/repository"]
    (policy,) = [x["spec"] for x in documents if x["kind"] == "NetworkPolicy"]
    assert policy["egress"]
