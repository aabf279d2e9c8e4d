"""Live pages: what they cost the database, and what each role sees."""

import asyncio
import json
from pathlib import Path

import psycopg
import pytest

from tests.support.logins import login
from tests.support.open_questions import PUSH, ask
from tests.support.size import sized
from tests.support.web import StatementCounter, Web, chromium, serving
from turbo.client.client import Client
from turbo.migrate import grant_roles

PAGES = sized(60, 500)
STATEMENTS = 30
PER_SECOND = 3.0


async def listen(web: Web, until: str) -> None:
    """One open page: its stream, until an event has this text. Then the page stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", web.port)
    writer.write(f"GET /events/front HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nCookie: {web.cookie}\r\n\r\n".encode())
    await writer.drain()
    seen = b""
    while until.encode() not in seen:
        part = await reader.read(65536)
        assert part, "the stream ended"
        seen = seen[-len(until) :] + part
    open_pages.append((reader, writer))


open_pages: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []


@pytest.mark.sized
async def test_open_pages_share_three_statements_a_second(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with serving(dsn, tmp_path) as web:
        assert (await asyncio.to_thread(web.get, "/")).status == 200
        counter = StatementCounter(monkeypatch)
        asked = "for-all-of-them"
        async with asyncio.timeout(120):
            listening = [asyncio.ensure_future(listen(web, asked)) for _ in range(PAGES)]
            while web.application.site.hub.pages < PAGES:
                await asyncio.sleep(0.05)
            await asyncio.to_thread(ask, dsn, asked)
            await asyncio.gather(*listening)
            begun = len(counter.moments)
            while len(counter.moments) < begun + STATEMENTS:
                await asyncio.sleep(0.2)
        seconds = counter.moments[-1] - counter.moments[begun]
        assert (len(counter.moments) - begun - 3) / seconds <= PER_SECOND, "three pollers may each be early by one"
        for _, writer in open_pages:
            writer.close()
        open_pages.clear()
        async with asyncio.timeout(60):
            while web.application.site.hub.pages:
                await asyncio.sleep(0.05)
        left = len(counter.moments)
        await asyncio.sleep(2)
        assert len(counter.moments) <= left + 3, "nobody looks, and it asks"


def test_slow_figures_do_not_hold_up_what_needs_a_person(dsn: str, tmp_path: Path):
    ask(dsn, "push", PUSH)
    with serving(dsn, tmp_path) as web, chromium() as browser:
        with psycopg.connect(dsn) as slow:
            slow.execute("lock table agent_schedules in access exclusive mode")
            page = web.open(browser)
            page.get_by_role("button", name="Approve").first.wait_for()
            page.get_by_text("Counting the tasks").wait_for()
        page.get_by_role("heading", name="Queues").wait_for()
        assert page.get_by_text("Counting the tasks").count() == 0
        web.quiet()


@pytest.mark.parametrize(
    ("role", "sees", "may"),
    [
        ("turbo_reader", True, ()),
        ("turbo_approver", True, ("approve",)),
        ("turbo_admin", True, ("approve", "cancel", "pause")),
    ],
)
def test_role_sees_and_may_what_the_database_grants(
    dsn: str, tmp_path: Path, role: str, sees: bool, may: tuple[str, ...]
):
    grant_roles(dsn)
    with login(dsn, role) as theirs:
        ask(dsn, "push", PUSH)
        with Client(dsn) as client:
            client.submit("x", task_id="one")
            (found,) = client.questions()
        with serving(theirs, tmp_path) as web:
            front = web.get("/")
            assert front.status == 200
            assert ("push" in front.text) == sees
            assert ("Left out" in front.text) == (role == "turbo_approver")
            assert "one" in web.get("/tasks").text
            for path, fields in (
                ("pause", {"queue": "default"}),
                ("cancel", {"task": "one"}),
                ("approve", {"asked": json.dumps(["push", found.key])}),
            ):
                answer = web.post(f"/{path}", fields, Accept="text/plain")
                assert (answer.status == 200) == (path in may), (path, answer)
                if path not in may:
                    assert answer.status == 403
                    assert "turbo_" in answer.text


def test_read_only_server_is_said(dsn: str, tmp_path: Path):
    with Client(dsn) as client:
        client.submit("x", task_id="one")
    with psycopg.connect(dsn, autocommit=True) as db:
        name = db.info.dbname
        db.execute(f'alter database "{name}" set default_transaction_read_only = on'.encode())
    with serving(dsn, tmp_path) as web:
        assert "one" in web.get("/tasks").text
        answer = web.post("/cancel", {"task": "one"}, Accept="text/plain")
        assert answer.status in (400, 503)
        assert "read" in answer.text


def test_trail_names_the_person_behind_the_login(dsn: str, tmp_path: Path):
    ask(dsn, "push", PUSH)
    with Client(dsn) as client, serving(dsn, tmp_path, trusted_proxies=["127.0.0.1"]) as web:
        client.submit("x", task_id="one")
        (found,) = client.questions()
        fields = {"asked": json.dumps(["push", found.key])}
        assert web.post("/approve", fields, X_Forwarded_User="alice", Accept="*/*").status == 200
        assert (
            web.post(
                "/cancel", {"task": "one"}, X_Forwarded_User="bob\u00e9".encode().decode("latin-1"), Accept="*/*"
            ).status
            == 200
        )
        assert web.post("/retry", {"task": "one"}, Accept="*/*").status == 200
        (answered,) = [a for a in client.trail("push") if a.actor is not None]
        assert answered.detail["on_behalf_of"] == "alice"
        cancelled, retried = client.trail("one")
        assert cancelled.detail["on_behalf_of"].startswith("bob")
        assert "on_behalf_of" not in retried.detail, "the session is shared, the name is not"
        assert cancelled.actor == retried.actor
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("select set_config('turbo.on_behalf_of', 'carol', false)")
        db.execute("update agent_tasks set status = 'cancelled' where task_id = 'one'")
        db.execute("delete from agent_tasks where task_id = 'one'")
        rows = db.execute(
            "select detail ->> 'on_behalf_of' from agent_actions order by action_id desc limit 2"
        ).fetchall()
    assert rows == [("carol",), ("carol",)]
