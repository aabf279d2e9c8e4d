"""The table of docs/executors.md, held against one real worker: in each situation that the real CLI can be brought into, the
task's row, its account's row and the metrics are what the page says.

One worker runs them all at once, each with an executor, an account, a login and a home of its own; the loopback API knows
the situation by the login. `exit 0, nothing said` is a stand-in for the CLI, as in test_claude_cli.py.
"""

import json
import os
import signal
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support import messages_api
from tests.support.accounts import PAUSE_REASON, AccountsBench, accounts_bench, is_probe
from tests.support.claude import RESETS_AT
from tests.support.claude_scenarios import SCENARIOS, Scenario
from tests.support.markdown import EXECUTORS, table_under
from tests.support.messages_api import Answer, Request
from tests.support.size import FULL
from tests.support.waiting import until

PROBE_GOOD = {"403 for this request", "a flag the CLI does not know"}
"""Where the account is fine and the trouble is the task's or the executor's own; elsewhere the probe meets it as well."""

REST_SECONDS = {"limit_jitter": 0.0, "backoff_first": 3600.0, "backoff_last": 3600.0} | {
    "outage_first": 3600.0,
    "outage_last": 3600.0,
}


@dataclass
class Case:
    """One line of the page's second table, and the row of the first that it belongs to."""

    shown: str
    number: int
    scenario: Scenario
    row: dict[str, str]

    @property
    def name(self) -> str:
        return f"s{self.number}"

    @property
    def token(self) -> str:
        return f"sk-ant-test-{self.name}-x"

    @property
    def wanted(self) -> dict[str, object]:
        """What the page says of the task after its first run, and of its account."""
        good = self.shown in PROBE_GOOD
        become, counts, account = (_said(self.row[c], good) for c in ("the task becomes", "counts", "the account"))
        status = become.split(" (")[0].split(",")[0]
        kind = "failed" if self.row["outcome"] == "auth_failed" and good else self.row["outcome"]
        return {
            "status": status,
            "failure_kind": None if self.row["failure_kind"] == "–" else self.row["failure_kind"],
            "retry_count": 1 if counts == "yes" else 0,
            "infra_count": int(kind == "infrastructure" and good),
            "outcome": kind,
            "account": (account.split(" until")[0] if account.startswith("paused") else "open"),
            "counted": self.counted - {"retries"},
        }

    @property
    def counted(self) -> set[str]:
        cell = self.row["and is counted in"]
        return set() if cell == "–" else set(cell.split(", "))


def _said(cell: str, probe_good: bool) -> str:
    """`x; probe good: y` is y if the probe is good."""
    parts = [part.strip() for part in cell.split(";")]
    for word, holds in (("probe good: ", probe_good), ("probe bad: ", not probe_good)):
        for part in parts:
            if holds and part.startswith(word):
                return part.removeprefix(word)
    return parts[0]


def cases() -> list[Case]:
    lines = Path(__file__).parents[2].joinpath("docs", "executors.md").read_text().split("\n")
    heading = next(line for line in lines if line.startswith("| situation |"))
    columns = [cell.strip() for cell in heading.strip("|").split("|")]
    rows = {cells[0]: dict(zip(columns, cells, strict=True)) for cells in table_under(EXECUTORS, "| situation |")}
    shown = table_under(EXECUTORS, "| shown with the real CLI |")
    every = [
        Case(name, n, SCENARIOS[name], rows[situation])
        for n, (name, situation) in enumerate(shown)
        if "ask" not in SCENARIOS[name].settings  # shown with the executor alone
    ]
    return every if FULL else one_of_each(every)


def one_of_each(every: list[Case]) -> list[Case]:
    """The first case of each situation, and every usage limit. test_claude_cli.py shows all of them with the executor alone."""
    first = {case.row["situation"]: case for case in reversed(every)}
    return [case for case in every if case is first[case.row["situation"]] or case.row["situation"] == "usage limit"]


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


@pytest.mark.sized
def test_every_row_of_the_page_holds_in_a_real_worker(bench: AccountsBench) -> None:
    some = cases()
    by_token = {case.token: case for case in some}
    left = {case.token: list(case.scenario.answers) for case in some}

    def decide(request: Request) -> Answer | None:
        login = " ".join(
            value for name, value in request.headers.items() if name.lower() in ("x-api-key", "authorization")
        )
        case = next(case for token, case in by_token.items() if token in login)
        if is_probe(request) and case.shown in PROBE_GOOD:
            return messages_api.text("ok")
        answers = left[case.token]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    bench.api.decide = decide
    worker = bench.start(configuration(bench, some), json.dumps({"timings": REST_SECONDS})).listening()
    for case in some:
        bench.task(
            case.name,
            case.scenario.prompt,
            task_type=case.name,
            max_retries=1,
            timeout_seconds=int(case.scenario.timeout),
        )
    for case in some:
        act(bench, worker.pid, case)
    ended = "select count(distinct task_id) from agent_actions where action_type = 'finished'"
    bench.until(lambda: bench.sql(ended) == [(len(some),)], 150)

    page = metrics_page(bench, worker.worker_id)
    wrong = []
    for case in some:
        found = {**task_of(bench, case), **account_of(bench, case, page), **metrics_of(case, page)}
        if found != case.wanted:
            wrong.append(f"{case.shown}: {[(k, found[k], v) for k, v in case.wanted.items() if found[k] != v]}")
    assert not wrong, "\n".join(["(what, found, the page says)", *wrong, bench.logs()])
    retries = Counter(case.row["failure_kind"] for case in some if "retries" in case.counted)
    assert {labels["reason"]: v for name, labels, v in page if name == "turbo_retries_total" and v} == retries
    limits = [case.name for case in some if case.row["situation"] == "usage limit"]
    until_reset = bench.sql(
        "select distinct extract(epoch from until)::int from agent_accounts where reason = 'usage_limit'"
    )
    assert len(limits) == 3
    assert until_reset == [(RESETS_AT,)]


def configuration(bench: AccountsBench, some: list[Case]) -> dict[str, object]:
    config = bench.config(name="alpha", host="alpha", slots=6, poll_seconds=3600.0)
    config["accounts"], config["executors"], config["routes"] = {}, {}, {}
    config["retry"] = {"base_seconds": 1e8, "max_seconds": 1e8}  # a retry stays scheduled
    for case in some:
        login = dict.fromkeys(case.scenario.login, case.token)
        settings = dict(case.scenario.settings)
        settings.pop("leave_seconds", None)
        env = settings.pop("env", {})
        one = bench.claude(case.name, login=login, account=case.name, **settings)
        executor = one["executors"]["claude"]
        executor["env"] |= env
        home = bench.path / case.name
        case.scenario.before(home)
        if case.scenario.stand_in is not None:
            program = home / "claude"
            program.write_text(f"#!/bin/sh\n{case.scenario.stand_in}\n")
            program.chmod(0o755)
            executor["command"] = [str(program)]
        executor["command"] = [*executor["command"], *case.scenario.flags]
        config["accounts"] |= one["accounts"]
        config["executors"][case.name] = executor
        config["routes"][case.name] = case.name
    return config


def act(bench: AccountsBench, worker: int, case: Case) -> None:
    """What befalls the agent from outside."""
    if case.scenario.act is None:
        return
    if case.shown == "a cancel while a tool runs":
        work = bench.path / "state"
        until(lambda: list(work.rglob("begun")), 90)
        bench.sql("update agent_tasks set status = 'cancelled' where task_id = %s", case.name)
        return
    number = {"SIGINT, exit 0": signal.SIGINT, "SIGKILL": signal.SIGKILL}[case.shown]
    bench.until(lambda: any(case.token in str(r.headers) for r in list(bench.api.requests)), 90)
    (agent,) = [p for p in psutil.Process(worker).children(recursive=True) if runs_case(p, case)]
    os.kill(agent.pid, number)


def runs_case(program: psutil.Process, case: Case) -> bool:
    """Whether it is the CLI of `case`; what ends while it is looked at (agents of other cases do) is not."""
    try:
        return "--session-id" in program.cmdline() and program.environ().get("HOME", "").endswith(f"/{case.name}")
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def task_of(bench: AccountsBench, case: Case) -> dict[str, object]:
    row = bench.row(case.name)
    return {column: row[column] for column in ("status", "failure_kind", "retry_count", "infra_count")}


Page = list[tuple[str, dict[str, str], float]]


def metrics_page(bench: AccountsBench, worker_id: str) -> Page:
    ((address,),) = bench.sql("select metrics_address from agent_workers where worker_id = %s", worker_id)
    text = urllib.request.urlopen(f"http://{address}/metrics").read().decode()
    return [(s.name, s.labels, s.value) for family in text_string_to_metric_families(text) for s in family.samples]


def account_of(bench: AccountsBench, case: Case, page: Page) -> dict[str, object]:
    """The row and the gauge must say the same."""
    query = f"select state, {PAUSE_REASON} from agent_accounts where split_part(account, ' model ', 1) = %s and state <> 'open'"
    rows = [f"{state} ({reason})" for state, reason in bench.sql(query, case.name)]
    gauges = [
        f"paused ({labels['reason']})"
        for name, labels, value in page
        if name == "turbo_account_paused" and labels["account"].partition(" model ")[0] == case.name and value == 1
    ]
    assert rows == gauges, f"{case.shown}: {rows} in the table, {gauges} in the metrics"
    return {"account": rows[0] if rows else "open"}


def metrics_of(case: Case, page: Page) -> dict[str, object]:
    def sums(metric: str, label: str) -> float:
        return sum(v for name, labels, v in page if name == f"turbo_{metric}_total" and labels.get(label) == case.name)

    finished = {
        labels["outcome"]
        for name, labels, v in page
        if name == "turbo_tasks_finished_total" and labels["executor"] == case.name and v == 1
    }
    counted = {m for m in ("auth_failures", "usage_limit_pauses") if sums(m, "account") == 1}
    return {"outcome": finished.pop() if len(finished) == 1 else finished, "counted": counted}
