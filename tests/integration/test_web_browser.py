"""The pages of `turbo web` in a real Chromium: what a person sees and does, and what hostile text does not."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect

from tests.support.open_questions import PARTS, PUSH, ask, question
from tests.support.web import Web, chromium, serious, serving
from turbo.client.client import Client

WORKER = """
insert into agent_workers (worker_id, name, host, pid, version, slots, queues)
values ('alpha-1-abc', 'alpha', 'mac-1', 1, '1', 4, '{default}')
"""
RUN = """
update agent_tasks set status = 'running', fencing_token = 7, assigned_worker_id = 'alpha-1-abc',
       started_at = now() - interval '2 minutes', turbo_rev = turbo_rev + 1
 where task_id = %s
"""
SAY = """
insert into agent_progress (task_id, fencing_token, worker_id, text) values (%s, 7, 'alpha-1-abc', %s)
on conflict (task_id) do update set text = excluded.text
"""

HOSTILE = (
    "<script>window.ran = 'script'</script><img src=x onerror=\"window.ran = 'onerror'\"><svg onload=\"window.ran = 'svg'\">"
    "<a href=\"javascript:window.ran = 'href'\">x</a></textarea></pre></td><style>* { display: none }</style>"
    "<iframe src=//evil.example></iframe><form action=//evil.example><meta http-equiv=refresh content='0;url=//evil.example'>"
    "{{ 7 * 7 }} ${7 * 7} \x1b[2J\x1b]0;owned\x07 \u202eevil\u202c a\u200bb 'quoted' \"quoted\" &amp; onmouseover=alert(1)"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as one:
        yield one


@pytest.fixture
def web(dsn: str, tmp_path: Path) -> Iterator[Web]:
    with serving(dsn, tmp_path) as running:
        yield running


def card_of(page: Page, task_id: str) -> Locator:
    """What the front page shows of a task that asks."""
    return page.locator(f'article[data-key^="{task_id} "]')


def run(dsn: str, task_id: str, line: str) -> None:
    """The task runs, and its agent says this."""
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(RUN, [task_id])
        db.execute(SAY, [task_id, line])


def test_person_answers_and_approves_on_the_front_page(web: Web, dsn: str, browser: Browser):
    ask(dsn, "which", question())
    ask(dsn, "parts", question(PARTS))
    for number in range(3):
        ask(dsn, f"push-{number}", PUSH)
    page = web.open(browser)
    expect(page.get_by_role("heading", name="Needs you 5")).to_be_visible()
    assert serious(page) == []

    card = card_of(page, "which")
    card.get_by_role("radio", name="PostgreSQL").check()
    card.get_by_role("button", name="Answer").click()
    expect(card).to_have_count(0)
    parts = card_of(page, "parts")
    parts.get_by_label("Answer in your words").fill("All of them")

    page.get_by_role("checkbox", name="Choose push-0").check()
    page.get_by_role("checkbox", name="Choose push-1").check()
    page.once("dialog", lambda dialog: dialog.accept())
    page.locator("#several").get_by_role("button", name="Approve").click()
    expect(card_of(page, "push-0")).to_have_count(0)
    third = card_of(page, "push-2")
    third.get_by_label("Reason for a denial").fill("not on Friday")
    third.get_by_role("button", name="Deny").click()
    expect(third).to_have_count(0)

    ask(dsn, "late", question())  # it comes by itself, and what was being typed is still there
    expect(card_of(page, "late")).to_be_visible()
    assert parts.get_by_label("Answer in your words").input_value() == "All of them"
    parts.get_by_role("button", name="Answer").click()
    expect(parts).to_have_count(0)
    with Client(dsn) as client:
        answers = [client.get(name).answer for name in ("which", "parts", "push-0", "push-1", "push-2", "late")]
    assert answers == ["PostgreSQL", "All of them", "yes", "yes", "no, not on Friday", None]
    web.quiet()


def test_front_page_follows_the_fleet_and_an_outage(own_server, tmp_path: Path, browser: Browser):
    dsn = own_server.dsn
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(WORKER)
    with Client(dsn) as client:
        client.submit("Refactor it", task_id="busy")
    run(dsn, "busy", "reading src/cache.py")
    with serving(dsn, tmp_path) as web:
        page = web.open(browser)
        expect(page.get_by_text("reading src/cache.py")).to_be_visible()
        expect(page.locator("[data-began]")).to_have_text(re.compile("^2m"))
        run(dsn, "busy", "running the tests")
        expect(page.get_by_text("running the tests")).to_be_visible(timeout=4000)
        own_server.stop("immediate")
        expect(page.locator("#state")).to_contain_text("The database does not answer")
        expect(page.get_by_text("running the tests")).to_be_visible()
        assert web.get("/tasks").status == 503, "the session that was open"
        away = web.get("/tasks")
        assert away.status == 503
        assert "cannot reach the database" in away.text
        own_server.start_again()
        run(dsn, "busy", "all green")
        expect(page.get_by_text("all green")).to_be_visible()
        expect(page.locator("#state")).to_be_hidden()
        web.quiet()


def test_list_filters_pages_and_acts_by_keyboard(web: Web, dsn: str, browser: Browser):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(
            "insert into agent_tasks (task_id, task_description, queue)"
            " select 'task-' || lpad(n::text, 3, '0'), 'part ' || n, 'q' || n % 2 from generate_series(1, 120) n"
        )
    page = web.open(browser, "/tasks")
    seen = names(page)
    for _ in range(2):
        with page.expect_navigation():
            page.get_by_role("link", name="Next page").click()
        seen += names(page)
    assert sorted(seen) == [f"task-{n:03}" for n in range(1, 121)]
    assert page.get_by_role("link", name="Next page").count() == 0

    page.keyboard.press("g")
    page.keyboard.press("f")
    page.wait_for_url(f"{web.url}/")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url(f"{web.url}/tasks")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("part 7")
    page.keyboard.press("Enter")
    page.wait_for_url("**/tasks?text=part+7*")
    assert len(names(page)) == 11
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_navigation():
        page.get_by_role("button", name="Cancel").click()
    page.get_by_role("checkbox", name="this page", exact=True).check()
    page.get_by_label("all that match").check()
    asked: list[str] = []

    def accept(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.once("dialog", accept)
    with page.expect_navigation():
        page.get_by_role("button", name="Cancel").click()
    assert asked == ["cancel 10 tasks that match the filter?"]
    with Client(dsn) as client:
        assert sum(line.status == "cancelled" for line in client.tasks(limit=None)) == 11
    assert serious(page) == []

    page.keyboard.press("n")
    page.wait_for_url(f"{web.url}/new")
    page.get_by_label("What the agent should do").fill("Write the notes")
    page.get_by_text("More").click()
    page.get_by_label("Id", exact=True).fill("notes")
    assert serious(page) == []
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url(f"{web.url}/tasks/notes")
    with Client(dsn) as client:
        assert client.get("notes").task_description == "Write the notes"
    web.errors = [one for one in web.errors if "404" not in one]
    web.quiet()


def names(page: Page) -> list[str]:
    return [text.strip() for text in page.locator("tbody a.mono").all_text_contents()]


def test_hostile_text_runs_nothing_and_hides_nothing(web: Web, dsn: str, browser: Browser):
    name = "a<b>\"'&\u202e"
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(WORKER.replace("'alpha'", "%s"), ["<b>alpha</b>"])
        for task_id in (name, "busy", "done"):
            db.execute("insert into agent_tasks (task_id, task_description) values (%s, %s)", [task_id, HOSTILE])
        db.execute("update agent_tasks set status = 'failed', error_message = %s where task_id = 'done'", [HOSTILE])
    run(dsn, "busy", HOSTILE + "x" * 10_000_000)
    choice = {"question": HOSTILE, "options": [{"label": HOSTILE, "description": HOSTILE}], "multi": False}
    ask(dsn, name, question(choice))
    ask(
        dsn,
        "call",
        {"kind": "approval", "text": HOSTILE, "tool": HOSTILE, "rule": HOSTILE, "input": {HOSTILE: HOSTILE}},
    )
    with Client(dsn) as client:
        client.submit(HOSTILE, task_id="held", hold=True, input_data={"x": HOSTILE})
        client.pause_queue("default", HOSTILE)
        page = web.open(browser)
        for path in ("/", "/tasks", "/asked/held", f"/tasks?text={'%3Cscript%3E'}", "/asked/nobody%3Cscript%3E"):
            page.goto(web.url + path)
            page.wait_for_timeout(300)  # whatever would run, runs at once
            assert page.evaluate("window.ran") is None, path
            assert page.locator("iframe, main svg, main style, main img").count() == 0
        page.goto(web.url)
        text = page.locator("main").inner_text()
        assert "<script>window.ran = 'script'</script>" in text
        assert "\\x1b[2J" in text
        assert "\\u202eevil\\u202c a\\u200bb" in text
        assert "{{ 7 * 7 }}" in text
        assert "\x1b" not in text
        card = page.get_by_role("article").filter(has=page.get_by_role("radio"))
        card.get_by_role("radio").check()
        card.get_by_role("button", name="Answer").click()
        expect(card).to_have_count(0)
        assert client.get(name).answer == HOSTILE, "the exact option, and the exact task"
    web.errors = [one for one in web.errors if "status of 400" not in one and "status of 404" not in one]
    web.quiet()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 360), ("dark", 360)])
def test_pages_fit_and_are_accessible(web: Web, dsn: str, browser: Browser, scheme: str, width: int):
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(WORKER)
    with Client(dsn) as client:
        client.submit("Refactor it " * 20, task_id="a-long-id-" * 10)
        client.submit("Wait", task_id="held", hold=True)
    run(dsn, "a-long-id-" * 10, "word" * 100)
    ask(dsn, "push", PUSH)
    size = {"width": width, "height": 740}
    page = web.open(browser, viewport=size, color_scheme=scheme, reduced_motion="reduce")
    for path in ("/", "/tasks", "/new", "/asked/held", "/tasks?queue=none", "/asked/gone"):
        page.goto(web.url + path)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert serious(page) == [], path
    page.goto(f"{web.url}/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()


def test_link_signs_in_a_browser_and_leaves_no_key(web: Web, browser: Browser):
    key = web.application.site.sign_ins.new_link()
    web.cookie = "none=x"
    page = web.open(browser, f"/sign-in#{key}")
    expect(page.get_by_role("link", name="Tasks")).to_be_visible()
    assert key not in page.url
    assert key not in page.evaluate("JSON.stringify(performance.getEntries().map(e => e.name))").replace(page.url, "")
    other = web.open(browser, f"/sign-in#{key}")
    expect(other.get_by_role("alert")).to_contain_text("used already")
    assert serious(other) == []
    other.goto(f"{web.url}/tasks")
    expect(other.get_by_label("Or paste the part")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Or paste the part")).to_be_visible()
