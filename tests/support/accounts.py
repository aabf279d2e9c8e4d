"""Real worker processes that run the real Claude CLI against one loopback Messages API; a login and a home per host."""

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.support import messages_api, prefork, workers
from tests.support.claude import OAUTH, the_cli
from tests.support.messages_api import Answer, MessagesApi, Request
from tests.support.prefork import TURBO
from tests.support.waiting import until
from tests.support.workers import WorkerProcess
from turbo.executors.agent.prompts import PREAMBLE
from turbo.executors.agent.running import PROBE_PROMPT

ACCOUNT = "max"
PAUSE_REASON = (
    "case when reason = 'manual' and unavailable then 'credits'"
    " else coalesce(reason, case when unavailable then 'unavailable' end) end"
)
"""Of a row of agent_accounts, as turbo shows it."""

BAD, GOOD = "sk-ant-bad-1234567890", "sk-ant-good-1234567890"
AT_ONCE = {"limit_jitter": 0.0, "resume_spread": 0.0}


def is_probe(request: Request) -> bool:
    return PROBE_PROMPT in request.everything and PREAMBLE not in request.everything


def key_of(request: Request) -> str:
    return next((value for name, value in request.headers.items() if name.lower() == "x-api-key"), "")


def refuse_bad_keys(request: Request) -> Answer | None:
    return messages_api.invalid_key() if key_of(request) == BAD else None


@dataclass
class HeldRequests:
    """Requests of one kind wait here until the test lets them go: a step of an interleaving."""

    here: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        self.here.set()
        assert self.go.wait(60), "the test never let it go"


@dataclass
class AccountsBench(workers.Bench):
    api: MessagesApi = field(default_factory=MessagesApi)

    def claude(self, host: str, *, login: dict[str, str], account: str | None = ACCOUNT, **more: Any) -> dict[str, Any]:
        """A worker.yaml: this host's login behind the account, `noop` without one. `more` goes to the executor."""
        home = self.path / host
        home.mkdir(exist_ok=True)
        env_file = home / "account.env"
        env_file.write_text("".join(f"{name}={value}\n" for name, value in login.items()))
        env_file.chmod(0o600)
        env = {
            "HOME": str(home),
            "CLAUDE_CONFIG_DIR": str(home / ".claude"),
            "TMPDIR": str(home),
            "ANTHROPIC_BASE_URL": self.api.url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_TELEMETRY": "1",
        }
        executor: dict[str, Any] = {"kind": "claude", "command": [the_cli()], "model": "sonnet", "cli_max_retries": 0}
        if account is None:
            env |= login
        else:
            executor["account"] = account
        config = self.config(name=host, host=host, slots=10, poll_seconds=3600.0)
        config["worker"] |= more.pop("worker", {})
        config["accounts"] = {account: {"env_file": str(env_file)}} if account else {}
        config["executors"] = {"claude": {**executor, "env": env, **more}, "noop": config["executors"]["noop"]}
        config["routes"] = {"default": "claude", "noop": "noop"}
        return config

    def worker(
        self,
        host: str,
        key: str = GOOD,
        *,
        breaker: bool = True,
        outages: bool = True,
        rechecks: bool = True,
        timings: dict[str, float] | None = None,
        **more: Any,
    ) -> WorkerProcess:
        """A worker of `host`, up. `key` is its API key; `login` in `more` overrides it. Without `rechecks` it looks
        when it is told and when it polls, at no other time. Without `outages` what is away fails its tasks."""
        login = more.pop("login", {"ANTHROPIC_API_KEY": key})
        settings = self.settings(breaker=breaker, outages=outages, rechecks=rechecks, timings=timings)
        return self.start(self.claude(host, login=login, **more), settings).listening()

    def settings(self, *, timings: dict[str, float] | None = None, **guards: bool) -> str:
        """The argument of tests/support/programs/account_worker.py."""
        return json.dumps({**guards, "timings": {**AT_ONCE, **(timings or {})}})

    def task(self, task_id: str, text: str | None = None, **columns: object) -> None:
        names = ["task_id", "task_description", *columns]
        values = [task_id, text or f"do {task_id}", *columns.values()]
        self.sql(f"insert into agent_tasks ({', '.join(names)}) values ({', '.join(['%s'] * len(names))})", *values)

    def probes(self, key: str | None = None) -> int:
        return sum(is_probe(r) and key in (None, key_of(r)) for r in list(self.api.requests))

    def runs_of(self, key: str | None = None) -> int:
        """Requests of tasks, not of probes."""
        return sum(not is_probe(r) and key in (None, key_of(r)) for r in list(self.api.requests))

    def breakers(self) -> dict[tuple[str, str], tuple[str, str | None]]:
        """(account, host) → (state, reason), of what is not open."""
        reason = PAUSE_REASON
        rows = self.sql(f"select account, host, state, {reason} from agent_accounts where state <> 'open'")
        return {(account, host): (state, reason) for account, host, state, reason in rows}

    def breaker(self, host: str, account: str = ACCOUNT) -> dict[str, Any]:
        query = "select * from agent_accounts where account = %s and host = %s"
        with psycopg.connect(self.dsn, row_factory=psycopg.rows.dict_row) as db:
            return db.execute(query, [account, host]).fetchone() or {}

    def until(self, predicate: Any, seconds: float = 45.0) -> Any:
        try:
            return until(predicate, seconds)
        except AssertionError:
            raise AssertionError(f"{self.sql('select * from agent_accounts')}\n{self.logs()}") from None

    def counts(self, *task_ids: str) -> list[tuple[Any, ...]]:
        query = "select status, retry_count, infra_count from agent_tasks where task_id = any(%s) order by task_id"
        return self.sql(query, list(task_ids))

    def turbo(self, *arguments: str) -> str:
        """What it prints."""
        done = prefork.run_text([TURBO, *arguments, "--dsn", self.dsn])
        assert done.returncode == 0, done.stderr
        return done.stdout


def subscription() -> dict[str, str]:
    return dict(OAUTH)


@contextlib.contextmanager
def accounts_bench(dsn: str, path: Path) -> Iterator[AccountsBench]:
    """Its API says "done" until told otherwise."""
    program = (sys.executable, Path(__file__).with_name("programs") / "account_worker.py")
    with MessagesApi(messages_api.text("done")) as api:
        one = AccountsBench(dsn, path, program=program, api=api)
        try:
            yield one
        finally:
            one.close()
