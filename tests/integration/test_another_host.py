"""A conversation that goes on on another host, with the real CLI: two workers, each with a home and a clone of its own."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import claude, messages_api, workers
from tests.support.claude_asking import calls, question, shell
from tests.support.repositories import IDENTITY, git, repository
from tests.support.waiting import until
from tests.support.workers import WorkerProcess

COMMITS = "echo one >>f && git add f && git commit --quiet --message one"


@dataclass
class Hosts:
    bench: workers.Bench
    api: messages_api.MessagesApi
    place: Path
    origin: Path

    def start(self, name: str, **executor: Any) -> WorkerProcess:
        """A worker on a host of that name. It takes what another host did not take at once."""
        agent = claude.Bench(self.api, self.place / name)
        agent.home.mkdir(exist_ok=True)
        clone = agent.home / "project"
        if not clone.exists():
            git(self.place, "clone", "--quiet", str(self.origin), str(clone))
        workspace = {"kind": "worktree", "repo": str(clone), "push": "origin"}
        config = agent.config(self.bench, poll_seconds=0.5, ask={}, workspace=workspace, **executor)
        config["executors"]["claude"]["env"] |= IDENTITY
        config["worker"] |= {"name": name, "host": name, "state_dir": str(agent.home / "state"), "stay_seconds": 1}
        return self.bench.start(config).listening()

    def ready(self, task_id: str, status: str = "waiting") -> dict[str, Any]:
        """The task has ended or asked, and any host may go on with it."""
        row = self.bench.wait(task_id, status, seconds=60)
        portable = "select 1 from agent_portable where task_id = %s"
        until(lambda: self.bench.sql(portable, task_id), 20, lambda: f"{self.bench.logs()}")
        return row

    def answer(self, task_id: str, text: str = "Postgres") -> None:
        self.bench.sql("update agent_tasks set answer = %s where task_id = %s", text, task_id)

    def host_of(self, task_id: str) -> str:
        return str(self.bench.row(task_id)["output_data"]["workspace"]["host"])

    def session_files(self, name: str, session: str) -> list[Path]:
        return list((self.place / name).rglob(f"{session}.jsonl"))


@pytest.fixture
def hosts(dsn: str, tmp_path: Path) -> Iterator[Hosts]:
    repository(tmp_path / "seed")
    git(tmp_path, "clone", "--quiet", "--bare", "seed", "origin.git")
    (tmp_path / "bench").mkdir()
    with messages_api.MessagesApi(messages_api.text("done")) as api, workers.bench(dsn, tmp_path / "bench") as bench:
        yield Hosts(bench, api, tmp_path, tmp_path / "origin.git")


def begun(hosts: Hosts) -> tuple[WorkerProcess, dict[str, Any]]:
    """A task has committed on alpha, and asks a person; its worker is gone."""
    hosts.api.answer(calls(shell(COMMITS)), calls(question("Which database?")), messages_api.text("done"))
    first = hosts.start("alpha")
    hosts.bench.insert("t", max_retries=0, timeout_seconds=100)
    row = hosts.ready("t")
    first.kill(signal.SIGKILL)
    return first, row


def test_answer_goes_on_where_a_worker_is(hosts: Hosts) -> None:
    _, row = begun(hosts)
    hosts.answer("t")
    hosts.start("beta")
    done = hosts.bench.wait("t", seconds=60)
    assert (done["output_data"]["output"], done["agent_session_id"]) == ("done", row["agent_session_id"])
    assert hosts.host_of("t") == "beta"
    told = hosts.api.requests[-1].everything
    assert told.count('\\"Which database?\\"=\\"Postgres\\"') == 1, "the deferred call was answered"
    assert len(hosts.api.requests) == 3, "nothing was asked of the model twice"
    space = done["output_data"]["workspace"]
    assert (space["branch"], space["continued"], space["commits"], space["pushed"]) == ("turbo/t", True, 1, True)
    assert git(hosts.origin, "rev-parse", "turbo/t") == space["head"]
    (file,) = hosts.session_files("beta", row["agent_session_id"])
    assert file.stat().st_mode & 0o777 == 0o600


def test_follow_up_and_the_first_host_again(hosts: Hosts) -> None:
    _, row = begun(hosts)
    hosts.answer("t")
    second = hosts.start("beta")
    hosts.ready("t", "completed")
    hosts.api.answer(calls(shell(COMMITS)), messages_api.text("said on beta"))
    hosts.bench.sql("insert into agent_tasks (task_id, task_description, continues) values ('f', 'Go on', 't')")
    hosts.ready("f", "completed")
    second.kill(signal.SIGKILL)
    # Alpha still has its own file of the session: the older one.
    assert hosts.session_files("alpha", row["agent_session_id"])
    hosts.api.answer(messages_api.text("over"))
    hosts.bench.sql("insert into agent_tasks (task_id, task_description, continues) values ('g', 'And on', 'f')")
    hosts.start("alpha")
    done = hosts.bench.wait("g", seconds=60)
    assert (hosts.host_of("g"), done["agent_session_id"]) == ("alpha", row["agent_session_id"])
    assert "said on beta" in hosts.api.requests[-1].everything
    assert done["output_data"]["workspace"]["since"] == hosts.bench.row("f")["output_data"]["workspace"]["head"]
    path = Path(done["output_data"]["workspace"]["path"])
    assert (path / "f").read_text() == "one\none\n", "the worktree was brought forward"


@pytest.mark.parametrize("noticed", [True, False], ids=["changed", "control"])
def test_changed_transcript_is_not_resumed(hosts: Hosts, noticed: bool) -> None:
    begun(hosts)
    hosts.bench.sql(
        "update agent_transcripts set lines = replace(lines, 'Which database?', 'Which databse??') where kind = 'session'"
    )
    if not noticed:  # whoever changes the checksums, too, is not noticed: the check is what keeps it from the agent
        rewrite_checksums(hosts)
    hosts.answer("t")
    beta = hosts.start("beta")
    if noticed:
        until(lambda: "does not match its checksum" in beta.log, 60, lambda: hosts.bench.logs())
        until(lambda: hosts.bench.row("t")["status"] == "pending", 20)
        assert hosts.bench.sql("select count(*) from agent_portable") == [(0,)]
        assert hosts.bench.row("t")["prefer_host"] == "alpha"
        hosts.start("alpha")
        hosts.bench.wait("t", seconds=60)
        assert hosts.host_of("t") == "alpha"
        assert "databse" not in hosts.api.requests[-1].everything
    else:
        asks_again = "select question -> 'number' = '2' and question::text like '%%databse%%' from agent_tasks"
        until(lambda: hosts.bench.sql(asks_again) == [(True,)], 60, lambda: hosts.bench.logs())


def rewrite_checksums(hosts: Hosts) -> None:
    import hashlib

    digests: dict[tuple[object, ...], Any] = {}
    order = (
        "select task_id, fencing_token, batch, kind, path, lines from agent_transcripts order by fencing_token, batch"
    )
    for task_id, token, batch, kind, path, lines in hosts.bench.sql(order):
        digest = digests.setdefault((task_id, token, kind, path), hashlib.sha256())
        digest.update(lines.encode())
        hosts.bench.sql(
            "update agent_transcripts set sha256 = %s where task_id = %s and fencing_token = %s and batch = %s",
            digest.digest(), task_id, token, batch,
        )  # fmt: skip


def test_secrets_stay_out_of_what_goes_on(hosts: Hosts) -> None:
    secret = claude.KEY["ANTHROPIC_API_KEY"]
    hosts.api.answer(
        calls(shell(f"echo {secret} 1>&2; {COMMITS}")), calls(question("Which database?")), messages_api.text("done")
    )
    first = hosts.start("alpha")
    hosts.bench.insert("t", max_retries=0, timeout_seconds=100)
    row = hosts.ready("t")
    first.kill(signal.SIGKILL)
    hosts.answer("t")
    hosts.start("beta")
    done = hosts.bench.wait("t", seconds=60)
    assert done["agent_session_id"] == row["agent_session_id"]
    (file,) = hosts.session_files("beta", row["agent_session_id"])
    assert secret not in file.read_text()
    assert secret in hosts.session_files("alpha", row["agent_session_id"])[0].read_text(), "control"


def test_worktree_with_loose_changes_stays_on_its_host(hosts: Hosts) -> None:
    hosts.api.answer(calls(shell("echo loose >loose")), calls(question("Which database?")), messages_api.text("done"))
    first = hosts.start("alpha")
    hosts.bench.insert("t", max_retries=0, timeout_seconds=100)
    row = hosts.bench.wait("t", "waiting", seconds=60)
    space = row["output_data"]["workspace"]
    assert (space["pushed"], space["uncommitted"]) == (True, 1)
    first.kill(signal.SIGTERM)
    first.process.wait()
    assert hosts.bench.sql("select count(*) from agent_portable") == [(0,)]
