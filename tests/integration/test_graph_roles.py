"""Graphs, follow-ups and messages with the roles of `turbo migrate --roles`."""

import psycopg
import pytest

from tests.integration.test_roles import granted  # noqa: F401 - a fixture
from tests.support.graphs import tie
from tests.support.logins import login
from tests.support.shell import Shell
from turbo import Client


def test_submitter_sees_graphs_and_goes_on_with_its_own(granted: str, shell: Shell) -> None:  # noqa: F811
    with Client(granted) as admin:
        admin.submit("x", task_id="theirs")
    with login(granted, "turbo_submitter") as dsn, Client(dsn) as client:
        client.submit("x", task_id="mine")
        client.submit("x", task_id="both", needs=["mine", "theirs"])
        client.reply("mine", "more", new_id="more")
        client.tell("mine", "Not that file")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="task theirs is not yours"):
            client.reply("theirs", "more")
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="task theirs is not yours"):
            client.tell("theirs", "x")
        tie(granted)
        assert len(client.graph("mine").nodes) == 4
        assert client.dependents("mine").blocked == 2
        assert client.blocked("both")[0].needs_left == 2
        assert [one.task_id for one in client.relations("mine").dependents] == ["both"]
        assert next(iter(client.follow("both", timeout=5)))[0].needs is not None
        own = Shell(dsn, shell.cwd)
        assert "Not that file" in own("show", "mine").out
        own("reply", "theirs", "x").one_line(1, "task theirs is not yours: it was submitted by")


def test_approver_sees_a_blocked_task_without_its_graph(granted: str, shell: Shell) -> None:  # noqa: F811
    with Client(granted) as admin:
        admin.submit("x", task_id="plan")
        admin.submit("x", task_id="a", needs=["plan"])
    tie(granted)
    with login(granted, "turbo_approver") as dsn:
        own = Shell(dsn, shell.cwd)
        done = own("show", "a")
        assert (done.code, "status           blocked" in done.out, done.err) == (0, True, "")
        assert own("tasks", "--status", "blocked").code == 0


def test_reader_sees_all_and_tells_nobody(granted: str, shell: Shell) -> None:  # noqa: F811
    with Client(granted) as admin:
        admin.submit("x", task_id="plan")
        admin.submit("x", task_id="a", needs=["plan"])
    tie(granted)
    with login(granted, "turbo_reader") as dsn:
        own = Shell(dsn, shell.cwd)
        assert own("graph", "a").code == 0
        assert "1 task waits for other tasks" in own("status").out
        own("tell", "a", "x").one_line(1, "permission denied")
