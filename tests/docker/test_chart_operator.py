"""Labels, names, and the values by which an operator fits the chart into a cluster."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from maisi_client._cli.parser import parser

from docker import version
from tests.docker.chart import CASES, CHART, OPERATOR, notes, pods, refusal, template

VALUES: dict[str, Any] = yaml.safe_load(OPERATOR.read_text())
# As in the chart's first version. A Deployment's selector cannot be changed.
SELECTOR = {"app.kubernetes.io/name": "maisi", "app.kubernetes.io/instance": "maisi"}
Document = dict[str, Any]


def labels(document: Document) -> dict[str, str]:
    found: dict[str, str] = document["metadata"]["labels"]
    return {name.removeprefix("app.kubernetes.io/"): value for name, value in found.items()}


def of_kind(documents: list[Document], kind: str) -> Document:
    (document,) = [one for one in documents if one["kind"] == kind]
    return document


@pytest.mark.parametrize("case", CASES)
def test_every_object_has_the_standard_labels(case: str) -> None:
    for document in template(*CASES[case]):
        expected = {
            "helm.sh/chart": f"maisi-{version.current()}",
            "name": "ct" if case == "operator" else "maisi",
            "instance": "maisi",
            "version": version.current(),
            "component": "dataset" if document["kind"] == "Job" else "server",
            "part-of": "maisi",
            "managed-by": "Helm",
        }
        assert expected.items() <= labels(document).items(), document["kind"]


def test_a_new_version_of_the_chart_changes_no_selector_and_restarts_no_pod(
    tmp_path: Path,
) -> None:
    chart = shutil.copytree(CHART, tmp_path / "maisi")
    metadata = chart / "Chart.yaml"
    metadata.write_text(re.sub(r"(ersion): 0\.1\.0", r"\1: 9.9.9+build", metadata.read_text()))
    args = ["--set=dataset.enabled=true,dataset.claim=data,monitoring.podMonitor=true"]
    old, new = template(*args), template(*args, chart=chart)
    for before, after in zip(old, new, strict=True):
        assert labels(after)["version"] == "9.9.9_build"
        assert labels(after)["helm.sh/chart"] == "maisi-9.9.9_build"
        assert before["spec" if "spec" in before else "kind"] == after.get("spec", after["kind"])
    deployment, service = of_kind(new, "Deployment"), of_kind(new, "Service")
    assert deployment["spec"]["selector"] == {"matchLabels": SELECTOR}
    assert service["spec"]["selector"] == SELECTOR
    job = of_kind(new, "Job")["spec"]["template"]["metadata"]["labels"]
    assert job == {**SELECTOR, "app.kubernetes.io/name": "maisi-dataset"}


def pod_and_metadata(kserve: bool) -> tuple[Document, Document]:
    """Return what an operator's values make of the server's pod: specification and metadata."""
    documents = template(*CASES["operator"], f"--set=kserve.enabled={str(kserve).lower()}")
    (pod,) = pods(documents)
    if kserve:
        return pod, of_kind(documents, "ServingRuntime")["spec"]
    return pod, of_kind(documents, "Deployment")["spec"]["template"]["metadata"]


PLACES: dict[str, Callable[[Document, Document], Any]] = {
    "imagePullSecrets": lambda pod, metadata: pod["imagePullSecrets"],
    "podAnnotations": lambda pod, metadata: metadata["annotations"],
    "nodeSelector": lambda pod, metadata: pod["nodeSelector"],
    "affinity": lambda pod, metadata: pod["affinity"],
    "tolerations": lambda pod, metadata: pod["tolerations"],
    "priorityClassName": lambda pod, metadata: pod["priorityClassName"],
    "runtimeClassName": lambda pod, metadata: pod["runtimeClassName"],
    "extraEnv": lambda pod, metadata: pod["containers"][0]["env"],
    "extraVolumes": lambda pod, metadata: pod["volumes"][-1:],
    "extraVolumeMounts": lambda pod, metadata: pod["containers"][0]["volumeMounts"][-1:],
}


@pytest.fixture(scope="module", params=[False, True], ids=["Deployment", "KServe"])
def server(request: pytest.FixtureRequest) -> tuple[Document, Document]:
    return pod_and_metadata(request.param)


@pytest.mark.parametrize("name", PLACES)
def test_the_servers_pod_has_what_a_value_says(
    name: str, server: tuple[Document, Document]
) -> None:
    assert PLACES[name](*server) == VALUES[name]


def test_labels_of_the_pods_stand_beside_the_charts_own(
    server: tuple[Document, Document],
) -> None:
    assert server[1]["labels"] == {
        "app.kubernetes.io/name": "ct",
        "app.kubernetes.io/instance": "maisi",
        "app.kubernetes.io/component": "server",
        "app.kubernetes.io/part-of": "maisi",
        **VALUES["podLabels"],
    }


def test_a_spread_counts_the_servers_pods_unless_it_says_what_it_counts(
    server: tuple[Document, Document],
) -> None:
    ours, theirs = VALUES["topologySpreadConstraints"]
    own_labels = {"app.kubernetes.io/name": "ct", "app.kubernetes.io/instance": "maisi"}
    expected = [{**ours, "labelSelector": {"matchLabels": own_labels}}, theirs]
    assert server[0]["topologySpreadConstraints"] == expected
    (pod,) = pods(template("--set-json=topologySpreadConstraints=[]"))
    assert "topologySpreadConstraints" not in pod


@pytest.mark.parametrize(
    ("release", "values", "name"),
    [
        ("maisi", "", "maisi"),
        ("prod", "", "prod"),
        ("prod", "nameOverride=ct", "prod-ct"),
        ("prod-ct", "nameOverride=ct", "prod-ct"),
        ("prod", "nameOverride=ct,fullnameOverride=volumes", "volumes"),
        ("p" * 53, "nameOverride=ct", "p" * 53),
    ],
)
def test_objects_have_the_name_that_is_asked_for(release: str, values: str, name: str) -> None:
    documents = template(f"--set={values}", release=release)
    assert {document["metadata"]["name"] for document in documents} == {name}
    (pod,) = pods(documents)
    assert pod["serviceAccountName"] == name


def test_objects_find_each_other_by_their_names() -> None:
    documents = template(*CASES["operator"])
    names = {document["metadata"]["name"] for document in documents}
    name = VALUES["fullnameOverride"]
    others = {f"{name}-models", f"{name}-dataset", f"{name}-dashboard", "volumes"}
    assert names == {name, *others}
    (pod,) = pods(documents)
    claims = [x["persistentVolumeClaim"]["claimName"] for x in pod["volumes"] if "pers" in str(x)]
    assert claims == [f"{name}-models", "weights"]
    (rule,) = of_kind(documents, "GRPCRoute")["spec"]["rules"]
    assert rule["backendRefs"] == [{"name": name, "port": 8001}]
    scaled = of_kind(documents, "ScaledObject")["spec"]
    assert scaled["scaleTargetRef"] == {"name": name}
    (container,) = of_kind(documents, "Job")["spec"]["template"]["spec"]["containers"]
    assert f"--url={name}.imaging.svc:8001" in container["args"]
    hpa = template("--set=autoscaling.kind=hpa,fullnameOverride=ct")
    target = of_kind(hpa, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target["name"] == of_kind(hpa, "Deployment")["metadata"]["name"] == "ct"
    kserve = template("--set=kserve.enabled=true,fullnameOverride=ct")
    model = of_kind(kserve, "InferenceService")["spec"]["predictor"]["model"]
    assert model["runtime"] == of_kind(kserve, "ServingRuntime")["metadata"]["name"] == "ct"


@pytest.mark.parametrize("kind", ["hpa", "keda"])
def test_scaling_down_waits_ten_minutes(kind: str) -> None:
    documents = template(f"--set=autoscaling.kind={kind}")
    if kind == "hpa":
        hpa = of_kind(documents, "HorizontalPodAutoscaler")["spec"]
    else:
        scaled = of_kind(documents, "ScaledObject")["spec"]
        assert scaled["cooldownPeriod"] == 600  # only for the step to 0
        hpa = scaled["advanced"]["horizontalPodAutoscalerConfig"]
    assert hpa["behavior"]["scaleDown"] == {"stabilizationWindowSeconds": 600}


@pytest.mark.parametrize(("values", "protocol"), [("", "kubernetes.io/h2c"), ("secret=tls", None)])
def test_a_gateway_calls_without_tls_only_where_the_server_has_none(
    values: str, protocol: str | None
) -> None:
    documents = template(*([f"--set=server.tls.{values}"] if values else []))
    (port,) = of_kind(documents, "Service")["spec"]["ports"]
    assert port.get("appProtocol") == protocol


def test_scaling_counts_the_pods_of_one_release_alone() -> None:
    documents = template("--set=autoscaling.kind=keda")
    (trigger,) = of_kind(documents, "ScaledObject")["spec"]["triggers"]
    (pattern,) = re.findall(r'pod=~"(.*?)"', trigger["metadata"]["query"])
    assert re.fullmatch(pattern, "maisi-7d4b9c6f5d-x2x9k")
    assert re.fullmatch(pattern, "maisi-7dx2x9k")  # Kubernetes cuts what is long
    assert not re.fullmatch(pattern, "maisi-canary-7d4b9c6f5d-x2x9k")


@pytest.mark.parametrize(
    ("values", "name", "created"),
    [
        ("serviceAccount.create=true", "maisi", True),
        ("serviceAccount.name=own", "own", True),
        ("serviceAccount.create=false", "default", False),
        ("serviceAccount.create=false,serviceAccount.name=own", "own", False),
    ],
)
def test_pods_have_the_service_account(values: str, name: str, created: bool) -> None:
    documents = template(f"--set={values}")
    (pod,) = pods(documents)
    assert pod["serviceAccountName"] == name
    accounts = [one["metadata"]["name"] for one in documents if one["kind"] == "ServiceAccount"]
    assert accounts == [name] * created


def test_prometheus_selects_what_watches_the_server_by_its_labels() -> None:
    documents = template(*CASES["operator"])
    for kind in ("PodMonitor", "PrometheusRule"):
        found = of_kind(documents, kind)["metadata"]["labels"]
        assert VALUES["monitoring"]["labels"].items() <= found.items()
    assert "release" not in of_kind(documents, "Service")["metadata"]["labels"]


@pytest.mark.parametrize(
    ("values", "absent"),
    [
        ("", 1),
        ("replicas=0", 0),
        ("autoscaling.kind=keda", 1),
        ("autoscaling.kind=keda,autoscaling.minReplicas=0", 0),
        ("autoscaling.minReplicas=0", 1),
    ],
)
def test_an_alert_says_that_all_pods_of_the_release_are_gone(values: str, absent: int) -> None:
    documents = template(f"--set=nameOverride=ct,monitoring.rules=true,{values}".rstrip(","))
    (group,) = of_kind(documents, "PrometheusRule")["spec"]["groups"]
    (down,) = [rule["expr"] for rule in group["rules"] if rule["alert"] == "MaisiDown"]
    assert set(re.findall(r'job="(.*?)"', down)) == {"ct"}
    assert down.count("absent(") == absent


def test_a_service_account_has_its_annotations() -> None:
    account = of_kind(template(*CASES["operator"]), "ServiceAccount")
    assert account["metadata"]["annotations"] == VALUES["serviceAccount"]["annotations"]


def test_the_datasets_pods_pull_from_the_same_registry() -> None:
    job = of_kind(template(*CASES["operator"]), "Job")
    assert job["spec"]["template"]["spec"]["imagePullSecrets"] == VALUES["imagePullSecrets"]


DATASET = ["nodeSelector", "affinity", "tolerations", "priorityClassName"]


@pytest.mark.parametrize("name", DATASET)
def test_the_datasets_pods_have_nodes_of_their_own(name: str) -> None:
    pod = of_kind(template(*CASES["operator"]), "Job")["spec"]["template"]["spec"]
    assert pod[name] == VALUES["dataset"][name] != VALUES[name]


def test_the_datasets_pods_may_run_on_any_node_by_default() -> None:
    servers = [f"--set-json={name}={json.dumps(VALUES[name])}" for name in DATASET]
    job = of_kind(template(*servers, "--set=dataset.enabled=true,dataset.claim=data"), "Job")
    assert not job["spec"]["template"]["spec"].keys() & set(DATASET)


def test_the_notes_name_the_objects_and_what_a_client_needs() -> None:
    text = notes()
    assert "rollout status deployment/maisi\n" in text and "service.clients" in text
    assert "MAISI_URL=maisi.imaging.svc:8001\n" in text and "MAISI_CA" not in text
    (words,) = re.findall(r"^  maisi (.*)$", text, re.MULTILINE)
    assert parser().parse_args(words.split()).url == "localhost:8001"
    text = notes(*CASES["operator"])
    assert "MAISI_URL=synthetic-ct.imaging.svc:8001\n" in text and "service.clients" not in text
    assert "job/synthetic-ct-dataset\n" in text
    assert "name=ct,app.kubernetes.io/instance=maisi" in text
    text = notes("--set=server.tls.secret=tls,server.tls.clients=true,kserve.enabled=true")
    assert "MAISI_CA, MAISI_CERTIFICATE and MAISI_KEY" in text and "port-forward" not in text
    assert "wait inferenceservice/maisi" in text and "deployment" not in text


WRONG = {
    "nameOverride": '"Not a name"',
    "fullnameOverride": f'"{"n" * 54}"',
    "serviceAccount": '{"create": "no"}',
    "podLabels": '{"app.kubernetes.io/instance": "other"}',
    "monitoring": '{"labels": {"app.kubernetes.io/name": "other"}}',
    "podAnnotations": '{"example.org/backup": false}',
    "affinity": '{"nodeAfinity": {}}',
    "nodeSelector": '{"gpu": true}',
    "tolerations": '["gpu"]',
    "topologySpreadConstraints": '[{"topologyKey": "zone"}]',
    "priorityClassName": '"High Priority"',
    "runtimeClassName": "1",
    "extraEnv": '[{"value": "1"}]',
    "extraVolumes": '[{"emptyDir": {}}]',
    "extraVolumeMounts": '[{"name": "notices"}]',
}


@pytest.mark.parametrize("name", [*WRONG, *(f"dataset.{name}" for name in DATASET)])
def test_a_wrong_value_is_refused_by_its_name(name: str) -> None:
    value = WRONG[name.removeprefix("dataset.")]
    assert f"/{name.replace('.', '/')}" in refusal(f"--set-json={name}={value}")


def test_the_trace_endpoint_is_an_option_of_the_server() -> None:
    option = "--trace-endpoint=http://collector:4318"
    traced = template("--set=server.traceEndpoint=http://collector:4318")
    assert option in yaml.safe_dump_all(traced)
    assert "--trace-endpoint" not in yaml.safe_dump_all(template())
    for wrong in ("collector:4318", "http://collector:4318?key", "https://collector:4318"):
        assert "traceEndpoint" in refusal(f"--set=server.traceEndpoint={wrong}")


@pytest.mark.parametrize(
    ("values", "ports"),
    [
        ("", []),
        ("models.source=s3,models.s3.url=s3://weights/maisi", [443]),
        ("server.traceEndpoint=http://collector:4318", [4318]),
        ("server.traceEndpoint=http://collector/otel:4319", [80]),
        ("server.traceEndpoint=http://[fd00::1]:4318/otel", [4318]),
        ("server.traceEndpoint=http://a:4318,models.source=s3,models.s3.url=s3://b", [443, 4318]),
    ],
)
def test_pods_reach_the_bucket_and_the_receiver_of_traces_alone(
    values: str, ports: list[int]
) -> None:
    egress = of_kind(template(f"--set={values}"), "NetworkPolicy")["spec"]["egress"]
    dns: list[Document] = [{"port": 53, "protocol": "UDP"}, {"port": 53}]
    assert egress == ([{"ports": [*({"port": port} for port in ports), *dns]}] if ports else [])
