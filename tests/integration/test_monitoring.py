"""A real Prometheus scrapes a real fleet of three workers through file_sd; a real Alertmanager tells a webhook."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from scripts.monitoring import Missing, Monitoring
from tests.support import messages_api, workers
from tests.support.claude import OAUTH, the_cli
from tests.support.database import migrated_database
from tests.support.messages_api import MessagesApi
from tests.support.repositories import IDENTITY, git, repository
from tests.support.requirements import missing
from tests.support.subscriptions import windows
from tests.support.waiting import until
from tests.support.workers import Bench

ROOT = Path(__file__).parents[2]
HOSTS = ("alpha", "beta", "gamma")
DEAD_LOGIN = messages_api.error(401, "authentication_error", "invalid x-api-key")
pytestmark = pytest.mark.xdist_group("monitoring")


class Webhook:
    """Where Alertmanager sends to: every alert it was sent, as (status, name, labels)."""

    def __init__(self) -> None:
        self.alerts: list[tuple[str, str, dict[str, str]]] = []
        seen = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                seen.extend((a["status"], a["labels"]["alertname"], a["labels"]) for a in body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def got(self, status: str, name: str) -> list[dict[str, str]]:
        return [labels for s, n, labels in self.alerts if (s, n) == (status, name)]


@dataclass
class Fleet:
    bench: Bench
    api: MessagesApi
    webhook: Webhook
    monitoring: Monitoring
    addresses: dict[str, str] = field(default_factory=dict)

    def query(self, expression: str) -> list[dict[str, Any]]:
        return self.monitoring.query(expression)

    def value(self, expression: str) -> float | None:
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def page(self, host: str) -> str:
        with urllib.request.urlopen(f"http://{self.addresses[host]}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def work(self, number: int) -> None:
        """Something of everything: successes, failures with retries, agents, a queue nobody serves, a spent budget."""
        self.bench.sql(
            "insert into agent_budgets (name, runs, queue) values ('none', 0, 'nobody') on conflict do nothing"
        )
        self.bench.sql(
            "insert into agent_subscriptions (name, events, target) values ('f', '{failed}', 'desk') on conflict do nothing"
        )
        for i in range(number):
            self.bench.sql("insert into agent_tasks (task_type, task_description) values ('noop', 'x')")
            self.bench.sql(
                "insert into agent_tasks (task_type, task_description, max_retries) values ('fail', 'x', %s)", i % 2
            )
        self.bench.sql("insert into agent_tasks (task_type, task_description) values ('claude', 'say hello')")
        self.bench.sql("insert into agent_tasks (task_type, task_description) values ('checked', 'x')")
        self.bench.sql("insert into agent_tasks (task_type, task_description) values ('pushed', 'x')")
        self.bench.sql("insert into agent_tasks (queue, task_description) values ('nobody', 'x')")
        until(
            lambda: (
                self.bench.sql("select count(*) from agent_tasks where status <> 'pending' and completed_at is null")
                == [(0,)]
            ),
            60,
            self.bench.logs(),
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    path = tmp_path_factory.mktemp("fleet")
    webhook = Webhook()
    monitoring = Monitoring(path, scrape=1, webhook=webhook.url, hurry=True)
    with (
        migrated_database() as dsn,
        MessagesApi(windows(messages_api.text("hello"), five_hour=(0.4, time.time() + 7200))) as api,
        workers.bench(dsn, path) as bench,
    ):
        one = Fleet(bench, api, webhook, monitoring)
        try:
            for host in HOSTS:
                bench.start(_config(bench, api, path, host)).listening()
            rows = bench.sql("select host, metrics_address from agent_workers")
            one.addresses = dict(rows)
            monitoring.targets(
                [{"targets": [address], "labels": {"host": host, "worker": host}} for host, address in rows]
            )
            try:
                monitoring.start()
            except Missing as error:
                missing(str(error))
            until(lambda: one.value("count(up == 1)") == 3, 30, "three targets up")
            until(lambda: one.query("turbo_workers"), 40, "the leader's gauges")
            yield one
        finally:
            monitoring.close()
            webhook.server.shutdown()


def _origin(path: Path) -> Path:
    found = path / "origin"
    return found if found.exists() else repository(found)


def _config(bench: Bench, api: MessagesApi, path: Path, host: str) -> dict[str, Any]:
    home = path / "home"
    home.mkdir(exist_ok=True)
    env_file = path / "max.env"
    env_file.write_text("".join(f"{k}={v}\n" for k, v in OAUTH.items()))
    env_file.chmod(0o600)
    config = bench.config(name=host, host=host)
    config["accounts"] = {"max": {"env_file": str(env_file)}}
    config["executors"]["fail"] = {"kind": "python", "handler": "turbo.testing:fail"}
    config["executors"]["claude"] = {
        "kind": "claude",
        "account": "max",
        "command": [the_cli()],
        "cli_max_retries": 0,
        "env": {
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "ANTHROPIC_BASE_URL": api.url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
        },
    }
    config["executors"]["checked"] = {"kind": "command", "command": ["true"], "check": {"command": ["true"]}}
    clone = path / f"clone-{host}"
    git(path, "clone", "--quiet", str(_origin(path)), str(clone))
    config["executors"]["pushed"] = {
        "kind": "command",
        "command": ["git", "commit", "--quiet", "--allow-empty", "--message", "more"],
        "workspace": {"kind": "worktree", "repo": str(clone), "push": "origin"},
        "env": IDENTITY,
    }
    config["notify"] = {"desk": {"kind": "command", "command": ["true"]}}
    names = ("claude", "fail", "checked", "pushed")
    config["routes"] |= {name: name for name in names} | {"default": "noop"}
    return config


def panels() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "monitoring" / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                expression = re.sub(r"\$(host|queue|account)\b", ".*", target["expr"])
                expression = expression.replace("$__rate_interval", "1m").replace("$__range", "10m")
                assert "$" not in expression, expression
                yield f"{file.stem}: {panel['title']}", expression


def rules() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "monitoring" / "prometheus").glob("*.rules.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            for rule in group["rules"]:
                if "record" in rule:
                    yield rule["record"], rule["expr"]
                    continue
                # An alert that is quiet returns nothing; every series it looks at must be there.
                for selector in re.findall(r"\b(?:\w+:)?turbo_[\w:]+(?:\{[^}]*\})?|\bup\{[^}]*\}", rule["expr"]):
                    yield f"alert {rule['alert']}", selector


def test_every_panel_and_rule_returns_data(fleet):
    fleet.work(4)
    until(lambda: fleet.query('turbo_agent_cost_usd_total{account="max"} > 0'), 30, "the first figures scraped")
    fleet.work(4)  # a histogram's first observation is no rate yet: the second is
    wanted = [*panels(), *rules()]
    assert len({name for name, _ in wanted}) > 50

    def empty() -> list[tuple[str, str]]:
        return [
            (name, expression)
            for name, expression in wanted
            if all(sample["value"][1] == "NaN" for sample in fleet.query(expression))
        ]

    last: list[tuple[str, str]] = wanted

    def none_left() -> bool:
        nonlocal last
        last = empty()
        return not last

    try:
        until(none_left, 60)
    except AssertionError:
        pytest.fail("no data:\n" + "\n".join(f"{name}: {expression}" for name, expression in last))
    with urllib.request.urlopen(f"{fleet.monitoring.prometheus}/api/v1/rules") as answer:
        groups = json.load(answer)["data"]["groups"]
    assert {rule["health"] for group in groups for rule in group["rules"]} == {"ok"}


def test_dashboard_matches_sql_by_host_and_status(fleet):
    """Running tasks by host, and the last hour's by host and status: both on the fleet dashboard, checked against SQL."""
    fleet.work(3)
    by_host = dict(
        fleet.bench.sql(
            "select w.host || ' ' || t.status, count(*)::int from agent_tasks t join agent_workers w"
            " on w.worker_id = t.assigned_worker_id where t.completed_at > now() - interval '1 hour' group by 1"
        )
    )

    def measured() -> dict[str, int]:
        found = fleet.query('sum by (host, outcome) (turbo_tasks_finished_total{outcome=~"succeeded|failed"})')
        names = {"succeeded": "completed", "failed": "failed"}
        return {
            f"{s['metric']['host']} {names[s['metric']['outcome']]}": int(s["value"][1])
            for s in found
            if s["value"][1] != "0"
        }

    retried = fleet.bench.sql(
        "select w.host || ' failed', sum(t.retry_count)::int from agent_tasks t join agent_workers w"
        " on w.worker_id = t.assigned_worker_id where t.status = 'failed' group by 1"
    )
    total = sum(by_host.values()) + sum(r[1] for r in retried)
    until(lambda: sum(measured().values()) == total, 15, f"{by_host} {retried} {measured()}")
    titles = {name for name, _ in panels()}
    assert {"fleet: Running tasks by host", "fleet: The last hour by host and outcome"} <= titles
    assert {s["metric"]["host"] for s in fleet.query('sum by (host) (turbo_slots{state="busy"})')} == set(HOSTS)


def test_dead_login_alerts_and_resolves_once_mended(fleet):
    fleet.api.answer(DEAD_LOGIN)
    task = fleet.bench.sql(
        "insert into agent_tasks (task_type, task_description) values ('claude', 'say hello') returning task_id"
    )[0][0]
    fired = until(lambda: fleet.webhook.got("firing", "TurboAccountLoggedOut"), 60, fleet.bench.logs())
    assert fired[0]["account"] == "max"
    assert fired[0]["host"] in HOSTS
    row = fleet.bench.row(task)
    assert (row["retry_count"], row["failure_kind"]) in ((0, "auth"), (0, None))
    fleet.api.answer(messages_api.text("hello"))
    for host in HOSTS:
        fleet.bench.sql("update agent_accounts set until = now() where state = 'paused' and host = %s", host)
    fleet.bench.sql("select pg_notify('turbo_ctl', 'accounts')")
    until(lambda: fleet.webhook.got("resolved", "TurboAccountLoggedOut"), 60, str(fleet.webhook.alerts))
    fleet.bench.wait(task, seconds=90)


def test_invented_names_leave_the_series_bounded(fleet):
    """10,000 tasks with 1,000 queue names and 1,000 task types."""

    def series() -> set[str]:
        pages = "\n".join(fleet.page(host) for host in HOSTS)
        return {line.rsplit(" ", 1)[0] for line in pages.splitlines() if line.startswith("turbo_")}

    fleet.work(1)
    until(lambda: any('queue="other"' in s for s in series()), 30, "the queue nobody serves is seen")
    before, in_prometheus = series(), fleet.value('count({job="turbo"})')
    with psycopg.connect(fleet.bench.dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_type, task_description) select 'invented_' || i % 1000, 'x'"
            " from generate_series(1, 5000) i"
        )
        db.execute(
            "insert into agent_tasks (queue, task_description) select 'invented_' || i % 1000, 'x'"
            " from generate_series(1, 5000) i"
        )
    until(
        lambda: (
            fleet.bench.sql("select count(*) from agent_tasks where queue = 'default' and status = 'pending'") == [(0,)]
        ),
        60,
        fleet.bench.logs(),
    )
    until(lambda: (fleet.value('max(turbo_queue_tasks{queue="other", status="pending"})') or 0) >= 5000, 60)
    new = series() - before
    assert not [s for s in new if "invented" in s]
    assert len(new) < 60, new  # histograms of runs that had not ended before
    assert fleet.value('count({job="turbo"})') < in_prometheus + 200
