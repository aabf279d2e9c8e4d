"""Four kinds of agents on one queue: each login dies once, each account is closed once, and every task is finished."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import claude, copilot_api, messages_api, responses_api, workers
from tests.support.acp import SCRIPTED, command_of
from tests.support.codex import a_codex_bench
from tests.support.copilot import MODEL, a_copilot_bench, the_copilot
from tests.support.prefork import TURBO
from tests.support.size import sized
from tests.support.waiting import until

EACH = sized(4, 25)
"""Tasks of each kind."""


@dataclass(frozen=True)
class Kind:
    """`account`: its section. `dies` and `heals` are about the login."""

    executor: dict[str, Any]
    account: dict[str, Any]
    dies: Callable[[], object]
    heals: Callable[[], object]


@pytest.fixture
def kinds(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Kind]]:
    with ExitStack() as stack:
        claudes = stack.enter_context(claude.a_bench(tmp_path_factory))
        codex = stack.enter_context(a_codex_bench(tmp_path_factory))
        copilot = stack.enter_context(a_copilot_bench(tmp_path_factory))
        agent = tmp_path / "agent"
        agent.mkdir()
        yield {
            "claude": Kind(
                {"kind": "claude", "command": [claude.the_cli()], "env": claudes.scrubbed()},
                {"env_file": str(claudes.login())},
                lambda: claudes.api.answer(messages_api.invalid_key()),
                lambda: claudes.api.answer(messages_api.text("done")),
            ),
            "codex": Kind(
                codex.section(),
                {"env_file": str(codex.login())},
                lambda: codex.api.answer(responses_api.error(401, "Incorrect API key provided", "invalid_api_key")),
                lambda: codex.api.answer(responses_api.text("done")),
            ),
            "copilot": Kind(
                {"kind": "copilot", "command": [the_copilot()], "model": MODEL, "env": copilot.scrubbed()},
                {"env_file": str(copilot.login())},
                lambda: copilot.api.answer(copilot_api.error(401, "Incorrect API key")),
                lambda: copilot.api.answer(copilot_api.text("done")),
            ),
            "acp": Kind(
                {"kind": "acp", "command": command_of("login file", agent), "profile": SCRIPTED},
                {},
                lambda: None,
                lambda: (agent / "login").touch(),
            ),
        }


@pytest.mark.sized
def test_each_kind_is_closed_once_and_finishes_its_tasks(dsn: str, tmp_path: Path, kinds: dict[str, Kind]) -> None:
    with workers.bench(dsn, tmp_path) as bench:
        config = bench.config(slots=len(kinds) * 2, poll_seconds=0.5)
        config["executors"] = {name: {**kind.executor, "account": f"login-{name}"} for name, kind in kinds.items()}
        config["accounts"] = {f"login-{name}": kind.account for name, kind in kinds.items()}
        config["routes"] = {name: name for name in kinds} | {"default": next(iter(kinds))}
        for kind in kinds.values():
            kind.dies()
        bench.start(config).listening()
        for name in kinds:
            for number in range(EACH):
                bench.insert(f"{name}{number:02}", task_type=name, max_retries=0, timeout_seconds=100)
        closed = "select account, state, reason from agent_accounts where account like 'login-%%' order by 1"
        expected = [(f"login-{name}", "paused", "auth") for name in sorted(kinds)]
        until(lambda: bench.sql(closed) == expected, 120, lambda: f"{bench.sql(closed)}\n{bench.logs()}")
        counts = "select status, max(retry_count), max(infra_count), count(*)::int from agent_tasks group by 1"
        until(lambda: bench.sql(counts) == [("pending", 0, 0, EACH * len(kinds))], 60, bench.logs)

        for name, kind in kinds.items():
            kind.heals()
            words = ["resume", "--account", f"login-{name}", "--dsn", dsn]
            subprocess.run([sys.executable, str(TURBO), *words], check=True, capture_output=True)
        done = [("completed", 0, 0, EACH * len(kinds))]
        until(lambda: bench.sql(counts) == done, 240, lambda: f"{bench.sql(counts)}\n{bench.logs()}")
        ran = "select task_type, output_data->>'account', count(*)::int from agent_tasks group by 1, 2"
        assert sorted(bench.sql(ran)) == sorted((name, f"login-{name}", EACH) for name in kinds)
        # A probe that fails while the login is still dead is no second closing.
        paused = "select about, count(*)::int from agent_events where event = 'account_paused' group by 1 order by 1"
        assert bench.sql(paused) == [(f"login-{name}", 1) for name in sorted(kinds)]
