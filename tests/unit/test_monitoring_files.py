"""monitoring/ without a server: the rules' own tests, the runbook's sections, the dashboards' models."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from scripts.dashboards import dashboards
from tests.support.requirements import require

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
DASHBOARDS = ROOT / "monitoring" / "grafana" / "dashboards"
RULES = yaml.safe_load((PROMETHEUS / "alerts.rules.yml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
TESTS = yaml.safe_load((PROMETHEUS / "alerts.test.yml").read_text())
CASES = {case["name"]: case for case in TESTS["tests"]}


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([require("promtool"), *arguments], capture_output=True, text=True)


def test_rules_are_valid_and_their_tests_pass():
    rules, tests = sorted(PROMETHEUS.glob("*.rules.yml")), sorted(PROMETHEUS.glob("*.test.yml"))
    assert len(rules) == 2
    assert len(tests) == 2
    for kind, files in (("check", rules), ("test", tests)):
        done = promtool(kind, "rules", *map(str, files))
        assert done.returncode == 0, done.stdout + done.stderr
    done = promtool("check", "config", str(PROMETHEUS / "prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_firing_and_not_firing():
    for alert in ALERTS:
        fires = CASES[f"{alert} fires"]["promql_expr_test"][0]
        quiet = CASES[f"{alert} stays quiet"]["promql_expr_test"][0]
        assert f'alertname="{alert}"' in fires["expr"]
        assert f'alertname="{alert}"' in quiet["expr"]
        assert fires["exp_samples"]
        assert quiet["exp_samples"] == []
    assert len(CASES) == 2 * len(ALERTS)


@pytest.mark.parametrize("always", [True, False])
def test_alert_that_always_or_never_fires_fails_its_tests(tmp_path, always):
    """The control of the two tests above: each alert's own case must notice."""
    expression = "vector(1)" if always else "vector(1) > 1"
    files = []
    for alert, rule in ALERTS.items():  # each beside its own two cases alone: all beside all take promtool 15 s
        broken = {name: value for name, value in rule.items() if name != "for"} | {"expr": expression}
        rules = {"groups": [{"name": "broken", "rules": [broken]}]}
        cases = [CASES[f"{alert} fires"], CASES[f"{alert} stays quiet"]]
        (tmp_path / f"{alert}.rules.yml").write_text(yaml.safe_dump(rules))
        files.append(tmp_path / f"{alert}.test.yml")
        files[-1].write_text(yaml.safe_dump(TESTS | {"rule_files": [f"{alert}.rules.yml"], "tests": cases}))
    done = promtool("test", "rules", *map(str, files))
    assert done.returncode != 0
    failed = set(re.findall(r'ALERTS\{alertname=\\"(\w+)\\"', done.stdout + done.stderr))
    assert failed == set(ALERTS)


def test_every_alert_gives_advice_and_links_the_runbook():
    page = (ROOT / "docs" / "runbook.md").read_text()
    sections = {title.lower(): title for title in re.findall(r"^## (\w+)$", page, re.M)}
    assert set(sections.values()) == set(ALERTS)
    for alert, rule in ALERTS.items():
        notes = rule["annotations"]
        assert set(notes) == {"summary", "description", "runbook"}, alert
        assert len(notes["description"]) > 60, alert
        path, _, anchor = notes["runbook"].partition("#")
        assert (path, sections[anchor]) == ("docs/runbook.md", alert)
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_alertmanager_accepts_the_example():
    file = ROOT / "monitoring" / "alertmanager" / "alertmanager.yml"
    done = subprocess.run([require("amtool"), "check-config", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    named = re.findall(r'alertname =~? "([\w|]+)"', file.read_text())
    assert {a for names in named for a in names.split("|")} <= set(ALERTS)


def test_dashboards_match_the_script():
    assert {p.name: p.read_text() for p in DASHBOARDS.glob("*.json")} == dashboards(), "run make dashboards"


@pytest.mark.parametrize("file", sorted(DASHBOARDS.glob("*.json")), ids=lambda p: p.name)
def test_grafana_models_read_dashboards_without_loss(file):
    text = json.loads(file.read_text())
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(text)))
    assert again == text
    assert len({panel["id"] for panel in text["panels"]}) == len(text["panels"])
    assert all(panel["description"] for panel in text["panels"])


def test_typo_in_a_dashboard_is_found():
    text = json.loads((DASHBOARDS / "fleet.json").read_text())
    text["panels"][0]["descriptoin"] = "x"
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(text))) != text
