"""The alerts in promtool, and all queries in a real Prometheus that scrapes a real server."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import yaml

from tests.conftest import PATIENCE, ROOT, Server
from tests.docker import tools
from tests.server.metrics import get
from tests.server.mini import last, stream, volume
from tests.server.ports import free_ports

DOCKER = ROOT / "docker"
# Metrics without samples unless a volume does not follow its mask.
QUIET = re.compile(r"maisi_(unfaithful|redraws)_total")


def prometheus(name: str = "promtool") -> str:
    return str(tools.debian("prometheus") / "usr" / "bin" / name)


def test_every_alert_fires_when_it_should_and_not_otherwise() -> None:
    tools.run(prometheus(), "check", "rules", DOCKER / "helm/maisi/files/alerts.yaml")
    cases = DOCKER / "prometheus" / "alerts_test.yaml"
    tools.run(prometheus(), "test", "rules", cases)
    rules = yaml.safe_load((DOCKER / "helm/maisi/files/alerts.yaml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tests = yaml.safe_load(cases.read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert fired == alerts
    page = (ROOT / "docs" / "how-to" / "operations.md").read_text()
    assert [alert for alert in alerts if f"### {alert}" not in page] == []


def test_promtool_has_no_complaint_about_our_metrics(server: Server) -> None:
    """Units, suffixes and HELP lines; Triton's own metrics are not ours to name."""
    volume(server, masked=True)
    ours = [
        line
        for address in (server.metrics, server.status)
        for line in get(address, "metrics")[1].splitlines(keepends=True)
        if re.match(r"(# (HELP|TYPE) )?maisi_", line)
    ]
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    names = re.findall(r"^# HELP (\w+)", "".join(ours), re.MULTILINE)
    assert names and [name for name in names if name not in page] == []
    words = [prometheus(), "check", "metrics"]
    result = subprocess.run(words, input="".join(ours), text=True, capture_output=True)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def query(port: int, expression: str) -> list[object]:
    parameters = urllib.parse.urlencode({"query": expression})
    url = f"http://127.0.0.1:{port}/api/v1/query?{parameters}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as response:
        answer = json.load(response)
    assert answer["status"] == "success", expression
    result: list[object] = answer["data"]["result"]
    return result


def test_the_dashboard_and_the_alerts_query_metrics_that_exist(
    server: Server, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    for group, address in zip(job["static_configs"], (server.metrics, server.status), strict=True):
        group["targets"] = [address]
        group["labels"]["namespace"] = "imaging"  # which Kubernetes adds
    config["global"]["scrape_interval"] = "300ms"
    config["rule_files"] = [str(DOCKER / "helm/maisi/files/alerts.yaml")]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    (port,) = free_ports(1)
    words = [
        prometheus("prometheus"),
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)

    def scraped() -> bool:
        with suppress(OSError):  # Prometheus has not begun
            return len(query(port, 'up{job="maisi"} == 1')) == 2
        return False

    try:
        eventually(scraped)
        volume(server, masked=True)
        eventually(lambda: query(port, "maisi_voxels_total > 0"))
        messages, client = stream(server, masked=True, steps=2)
        last(messages)
        client.close()
        dashboard = json.loads((DOCKER / "helm/maisi/files/dashboard.json").read_text())
        expressions = [
            target["expr"] for panel in dashboard["panels"] for target in panel["targets"]
        ]
        assert len(expressions) > 12
        for expression in expressions:
            for name, value in {"$namespace": ".*", "$__rate_interval": "1m"}.items():
                expression = expression.replace(name, value)
            if not QUIET.search(expression):
                eventually(lambda text=expression: query(port, text))
        eventually(lambda: len(query(port, 'count by (instance) ({job="maisi"})')) == 1)
        # MaisiDown is pending if a rule was evaluated before the first scrape.
        eventually(lambda: query(port, 'ALERTS{alertname!="MaisiDown"}') == [])
        eventually(lambda: query(port, 'up{job="maisi", endpoint="status"} == 1'))
    finally:
        process.terminate()
        process.wait(PATIENCE)
