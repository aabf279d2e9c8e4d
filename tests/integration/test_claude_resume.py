"""Which session a retry goes on with, through the task's row: real CLI, real worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import messages_api
from tests.support.accounts import AccountsBench, HeldRequests, accounts_bench
from tests.support.messages_api import Answer, Request


@pytest.fixture
def bench(dsn: str, tmp_path: Path) -> Iterator[AccountsBench]:
    with accounts_bench(dsn, tmp_path) as one:
        yield one


def test_failed_session_is_resumed_and_a_refused_one_forgotten(bench: AccountsBench) -> None:
    answers = [
        messages_api.error(418, "api_error", "I am a teapot"),
        messages_api.refusal(),
        messages_api.text("seven"),
    ]
    tries = [HeldRequests() for _ in answers]

    def decide(_request: Request) -> Answer:
        number = bench.row("t")["retry_count"]  # the CLI asks more than once in one try: again after a refusal
        tries[number].wait()
        return answers[number]

    bench.api.decide = decide
    bench.worker("alpha", resume=True)
    bench.task("t", "count the sheep", max_retries=2)

    def session() -> str | None:
        return bench.row("t")["agent_session_id"]

    bench.until(tries[0].here.is_set)
    assert session() is None
    tries[0].go.set()
    bench.until(tries[1].here.is_set)
    assert session() is not None, "a retry can go on with it"
    assert "cut short" in bench.api.requests[1].prompt
    tries[1].go.set()
    bench.until(tries[2].here.is_set)
    assert session() is None, "a refused conversation is not gone on with"
    assert bench.api.requests[-1].prompt.endswith("count the sheep")
    tries[2].go.set()
    row = bench.wait("t")
    assert row["retry_count"] == 2
    assert row["output_data"]["output"] == "seven"
    assert row["agent_session_id"] == row["output_data"]["session_id"]
