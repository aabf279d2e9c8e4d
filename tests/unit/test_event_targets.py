"""Targets of notifications: commands and webhooks, and what they refuse."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.notices import Received, receiver
from turbo.config.notify import CommandTarget, WebhookTarget
from turbo.domain.event import Event, Notice, notice, sample
from turbo.domain.redaction import Redactor
from turbo.events.command_target import CommandDelivery
from turbo.events.failure import DeliveryFailed
from turbo.events.public_address import is_public
from turbo.events.webhook_target import WebhookDelivery
from turbo.process.environment import EnvironmentRefused
from turbo.process.journal import Journal

SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()


def webhook(url: str | None = None, **more: Any) -> WebhookDelivery:
    return WebhookDelivery("ops", WebhookTarget(kind="webhook", url=url, **({"private": True} | more)))


def env_file(path: Path, **values: str) -> str:
    file = path / "ops.env"
    file.touch(mode=0o600)
    file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
    return str(file)


async def failure(target: WebhookDelivery | CommandDelivery, made: Notice | None = None) -> str:
    with pytest.raises(DeliveryFailed) as failed:
        await target.deliver(made or sample("desk"))
    return str(failed.value)


def signed_with(secret: str, one: Received) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{one.headers['webhook-id']}.{one.headers['webhook-timestamp']}.".encode() + one.body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return wanted in one.headers.get("webhook-signature", "").split()


async def test_webhook_is_signed_with_the_secret_of_now(tmp_path: Path) -> None:
    file = env_file(tmp_path, TURBO_WEBHOOK_SECRET=SECRET)
    with receiver() as there:
        target = webhook(there.url, env_file=file)
        await target.deliver(sample("a b.c\r\né"))
        env_file(tmp_path, TURBO_WEBHOOK_SECRET=f'"{SECRET} {OTHER}"')
        await target.deliver(sample("desk"))
        env_file(tmp_path, TURBO_WEBHOOK_SECRET=OTHER)
        await target.deliver(sample("desk"))
        first, both, last = there.received
    assert [signed_with(SECRET, one) for one in there.received] == [True, True, False]
    assert [signed_with(OTHER, one) for one in there.received] == [False, True, True]
    assert json.loads(first.body)["summary"].startswith("task sample-task completed: ")
    assert first.headers["webhook-id"] == "a%20b%2ec%d%a%e9:t0"
    assert both.headers["webhook-id"] == last.headers["webhook-id"]


async def test_webhook_formats_for_people(tmp_path: Path) -> None:
    event = Event("actions", 1, "asked", _now(), {"task_id": "t", "text": "<!here> a & b"})
    made = notice("s", [event], Redactor(frozenset()))
    with receiver() as there:
        await webhook(there.url, format="slack").deliver(made)
        await webhook(there.url, format="text").deliver(made)
        file = env_file(tmp_path, TURBO_WEBHOOK_URL=f"{there.url}/of-the-file")
        await webhook(env_file=file).deliver(made)
        slack, text, secret = there.received
    assert json.loads(slack.body) == {"text": "task t asks: &lt;!here&gt; a &amp; b"}
    assert (text.body, text.headers["content-type"]) == (b"task t asks: <!here> a & b", "text/plain; charset=utf-8")
    assert secret.path == "/hook/of-the-file"


def _now() -> datetime:
    return datetime.now(UTC)


async def test_webhook_that_does_not_take_it_says_why(tmp_path: Path) -> None:
    leak = "s3cret-in-a-file"
    file = env_file(tmp_path, TURBO_WEBHOOK_SECRET=leak + "-0123456789")
    answers = {"/500": (500, {}), "/moved": (302, {"Location": "http://169.254.169.254/latest"})}
    with receiver(lambda one: answers.get(one.path, (302, {"Location": one.path}))) as there:
        base = there.url.removesuffix("/hook")
        assert await failure(webhook(f"{base}/500")) == "it answered 500 Internal Server Error"
        assert "302, a redirect to http://169.254.169.254/latest: none is followed" in await failure(
            webhook(f"{base}/moved")
        )
        echoed = await failure(webhook(f"{base}/echo?{leak}-0123456789", env_file=file))
        assert "/echo?[redacted]" in echoed
        assert leak not in echoed
        assert len(there.received) == 3
    assert "refused" in await failure(webhook(there.url))
    target = webhook(there.url, env_file=file)
    Path(file).chmod(0o644)
    assert "chmod 600" in await failure(target)
    with pytest.raises(EnvironmentRefused):
        webhook(there.url, env_file=file)
    Path(file).chmod(0o600)
    env_file(tmp_path, TURBO_WEBHOOK_SECRET="short")
    assert "openssl rand" in await failure(target)
    assert "no url" in await failure(webhook(env_file=file))


async def serves(answer: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """A server that does with its one connection what `answer` does."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening:
            connection, _ = listening.accept()
            with connection:
                answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    return listening.getsockname()[1], listening


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "no answer within 0.3 s"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100, "no answer within 0.3 s"),
        (b"SSH-2.0-x\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", "headers are too long"),
        (b"HTTP/1.1 103 Early\r\n\r\n" * 9, "interim answers"),
    ],
    ids=["hangs", "drips", "speaks another protocol", "huge", "interim for ever"],
)
async def test_webhook_that_is_no_server_ends_in_time(sent: bytes, why: str) -> None:
    stop = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(sent)
        stop.wait(10)

    port, _ = await serves(answer)
    try:
        seconds = 0.3 if "0.3" in why else 10
        assert why in await failure(webhook(f"http://127.0.0.1:{port}/", timeout_seconds=seconds))
    finally:
        stop.set()


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "fd00::1"),
        *("::1", "::", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:0a00:0001::", "240.0.0.1", "192.0.2.1", "no address"),
    ],
)
def test_address_that_is_not_public_is_known(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_address_that_is_public_is_known(address: str) -> None:
    assert is_public(address)


async def test_private_address_is_refused_even_after_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the name is looked up once, and what was judged is connected to. The control: `private` lets it through."""
    looked_up: list[str] = []
    connected: list[str] = []
    answers = iter([["93.184.216.34"], ["10.0.0.1", "127.0.0.1"], ["127.0.0.1"]])

    async def getaddrinfo(host: str, port: int, **_more: object) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(answers)]

    async def open_connection(host: str, port: int, **_more: object) -> Any:
        connected.append(host)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    await failure(webhook("https://rebinds.example", private=False))
    why = await failure(webhook("https://rebinds.example", private=False))
    assert "leads to 10.0.0.1, 127.0.0.1, which is not on the public internet" in why
    assert "private: true" in why
    assert (connected, looked_up) == (["93.184.216.34"], ["rebinds.example"] * 2)
    await failure(webhook("https://rebinds.example"))
    assert connected == ["93.184.216.34", "127.0.0.1"]


def command(tmp_path: Path, *argv: str, **more: Any) -> CommandDelivery:
    section = CommandTarget(kind="command", command=list(argv), **more)
    return CommandDelivery("desk", section, Journal(tmp_path / "journal"), tmp_path / "logs")


async def test_command_gets_the_body_on_standard_input_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURBO_DSN", "postgresql://me:pw@h/d")
    there = tmp_path / "seen"
    program = f"import os,sys; open({str(there)!r},'w').write(repr([sys.argv, sorted(os.environ)]) + sys.stdin.read())"
    file = env_file(tmp_path, TOKEN="t0ken")
    hostile = "$(touch /tmp/x) `id` \x1b]0;x\x07 ; rm -rf --help"
    event = Event("actions", 7, "failed", _now(), {"task_id": hostile, "text": hostile})
    made = notice("s", [event], Redactor(frozenset()))
    target = command(tmp_path, sys.executable, "-c", program, env={"A": "b"}, env_file=file)
    await target.deliver(made)
    seen = there.read_text()
    names, _, body = seen.partition("]]")
    assert "touch" not in names
    assert [name in names for name in ("'A'", "'TOKEN'", "TURBO_DSN", "TURBO_TASK_ID")] == [True, True, False, False]
    assert "\x1b" not in body
    assert json.loads(body)["events"][0]["task_id"] == hostile.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
    assert "t0ken" in target.secrets()


async def test_command_that_fails_says_why(tmp_path: Path) -> None:
    assert await failure(command(tmp_path, "sh", "-c", "echo no paper >&2; exit 4")) == "sh: exit code 4: no paper"
    assert "was ended after 0.3 s" in await failure(command(tmp_path, "sleep", "60", timeout_seconds=0.3))
    assert "cannot start" in await failure(command(tmp_path, "no-such-program"))
    assert not list((tmp_path / "journal").glob("*")), "a program of a target is left in the journal"


def test_body_has_no_secret_and_is_short() -> None:
    token = "s3cret-0123456789"
    row = {"task_id": "t", "text": f"\nuse {token} " + "x" * 500, "by": "w"}
    detail = {"why": f"login {token} refused", "host": "h", "nested": {"a": 1}}
    events = [
        Event("actions", 1, "asked", _now(), row),
        Event("events", 2, "account_paused", _now(), {"about": "alpha", "detail": detail}),
    ]
    made = notice("s", events, Redactor(frozenset({token})), web_url="https://t.example", outputs={"t": {"a": token}})
    text = json.dumps(made.body)
    assert token not in text
    assert "[redacted]" in text
    assert len(made.body["events"][0]["text"]) == 200
    assert made.body["events"][0]["link"] == "https://t.example/tasks/t"
    assert made.body["events"][1]["detail"] == {"host": "h"}
    assert (made.body["type"], made.body["count"], made.summary) == (
        "several",
        2,
        "2 events: 1 asked, 1 account_paused (t, alpha)",
    )
    assert "output" not in made.body["events"][0], "only of completed tasks"
