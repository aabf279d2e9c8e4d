"""Subscriptions, as a program and a person write them. The same test for both clients."""

import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.test_python_client import KINDS, Blocking
from tests.support.shell import Shell
from turbo import BadField, Client, SubscriptionExists, SubscriptionRefused, UnknownSubscription


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, dsn: str) -> Iterator[Any]:
    one = Client(dsn) if request.param == "sync" else Blocking(dsn)
    yield one
    one.close()


def test_subscription_is_written_read_and_removed(client: Any) -> None:
    added = client.subscriptions.add("phone", "ntfy", ["failed", "asked", "failed"], queue="q", task_type="t")
    assert (added.events, added.target, added.queue, added.task_type) == (("asked", "failed"), "ntfy", "q", "t")
    assert (added.state, added.created_by, added.holder, added.delivered, added.failures) == (
        "on",
        "postgres",
        None,
        0,
        0,
    )
    with pytest.raises(SubscriptionExists):
        client.subscriptions.add("phone", "ntfy", ["failed"])
    changed = client.subscriptions.add("phone", "slack", ["worker_died"], replace=True)
    assert (changed.events, changed.target, changed.queue) == (("worker_died",), "slack", None)
    assert [client.subscriptions.pause("phone"), client.subscriptions.pause("phone")] == [True, False]
    assert client.subscriptions.get("phone").state == "paused"
    assert client.subscriptions.resume("phone")
    assert client.subscriptions.names("ph") == ["phone"]
    client.subscriptions.remove("phone")
    assert client.subscriptions.list() == []
    for call in (client.subscriptions.get, client.subscriptions.pause, client.subscriptions.remove):
        with pytest.raises(UnknownSubscription):
            call("phone")
    for wrong in (("", "t", ["failed"]), ("n", "t", []), ("n", "t", ["done"]), ("n", "t\n", ["failed"])):
        with pytest.raises(BadField):
            client.subscriptions.add(*wrong)
    with pytest.raises(BadField):
        client.subscriptions.add("n", "t", ["worker_died"], queue="q")
    assert not issubclass(BadField, SubscriptionRefused)


def test_target_that_reads_nothing_does_not_end_the_command(shell: Shell) -> None:
    """The commands that a closed pipe ends have SIGPIPE's default action: this one writes to a pipe of its own."""
    (shell.cwd / "worker.yaml").write_text(
        "executors: {x: {kind: command, command: ['true']}}\nroutes: {default: x}\n"
        "notify: {desk: {kind: command, command: [sh, -c, 'cat /proc/$PPID/status > got; cat']}}\n".replace(
            "got", str(shell.cwd / "got")
        )
    )
    assert shell("subscription", "test", "desk", "-c", str(shell.cwd / "worker.yaml")).code == 0
    ignored = re.search(r"^SigIgn:\s*(\w+)$", (shell.cwd / "got").read_text(), re.MULTILINE)
    assert ignored is not None
    assert int(ignored[1], 16) & 1 << signal.SIGPIPE - 1


def test_commands_write_list_and_try_subscriptions(shell: Shell, dsn: str) -> None:
    assert shell("subscription", "add", "phone", "--target", "desk", "--events", "asked, failed").out == (
        "phone: asked, failed → desk\n"
    )
    wrong = shell("subscription", "add", "x", "--target", "desk", "-e", "faild")
    assert "write some of asked" in wrong.err
    assert "--replace changes it" in shell("subscription", "add", "phone", "--target", "d", "-e", "failed").err
    assert "phone" in shell("subscription", "list").out
    assert "no such subscription" in shell("subscription", "pause", "nobody").err
    assert shell("subscription", "pause", "phone").out == "phone: paused\n"
    (shell.cwd / "worker.yaml").write_text(
        "executors: {x: {kind: command, command: ['true']}}\nroutes: {default: x}\n"
        "notify:\n  desk: {kind: command, command: [sh, -c, 'cat > got']}\n  bad: {kind: command, command: ['false']}\n"
    )
    config = str(shell.cwd / "worker.yaml")
    assert "desk: delivered in" in shell("subscription", "test", "phone", "-c", config).out
    failed = shell("subscription", "test", "bad", "-c", config)
    assert (failed.code, failed.err) == (1, "bad: not delivered: false: exit code 1\n")
    assert '"type": "asked"' in shell("subscription", "test", "desk", "-c", config, "-e", "asked", "--show").out
    unknown = shell("subscription", "test", "nope", "-c", config).err
    assert "is no target, and no subscription" in unknown
