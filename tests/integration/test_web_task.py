"""The page of a task in a real Chromium: the live transcript, every action, hostile output, a task that goes away."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support import open_questions, web_tasks
from tests.support.database import migrated_database
from tests.support.waiting import until
from tests.support.web import Web, chromium, serious, serving

pytestmark = pytest.mark.xdist_group("web_task")

EVIL = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "</pre></details></textarea><svg onload=alert(1)> javascript:alert(1) \x1b[31mred\x1b[0m \u202egnp.exe \u200b{{7*7}}"
)
MEGABYTE = 1024 * 1024


@dataclass
class Pages:
    dsn: str
    web: Web
    browser: Browser

    def open(self, path: str, **context: object) -> Page:
        return self.web.open(self.browser, path, **context)

    def row(self, columns: str, where: str, *values: object) -> tuple[object, ...]:
        with psycopg.connect(self.dsn, autocommit=True) as db:
            found = db.execute(f"select {columns} from {where}".encode(), values).fetchone()
        assert found is not None
        return found

    def status(self, task_id: str) -> object:
        return self.row("status", "agent_tasks where task_id = %s", task_id)[0]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """One server, database and browser for the module."""
    path = Path(tmp_path_factory.mktemp("web"))
    with migrated_database() as dsn, serving(dsn, path) as web, chromium() as browser:
        yield Pages(dsn, web, browser)


@pytest.fixture(autouse=True)
def quiet(pages: Pages) -> Iterator[None]:
    """No script failed, and no browser refused anything that a page asked for."""
    yield
    pages.web.quiet()
    for context in pages.browser.contexts:
        context.close()


def test_transcript_grows_while_it_is_looked_at(pages: Pages):
    web_tasks.runs(pages.dsn, "talks")
    web_tasks.says(pages.dsn, "talks", 0, "I will look.")
    page = pages.open("/tasks/talks")
    expect(page.get_by_text("I will look.")).to_be_visible()
    web_tasks.says(pages.dsn, "talks", 1, "There are 12.", result="\n".join(f"line {n}" for n in range(40)))
    page.get_by_text("There are 12.").wait_for()
    assert not page.get_by_text("line 39").is_visible()
    page.get_by_text("unfold").click()
    assert page.get_by_text("line 39").is_visible()
    for number in range(2, 6):
        web_tasks.says(pages.dsn, "talks", number, f"word {number}.")
    page.get_by_text("word 5.").wait_for()
    shown = page.locator("[data-batch]").evaluate_all("found => found.map(one => one.dataset.batch)")
    assert shown == [f"7-{number}" for number in range(6)]
    web_tasks.ends(pages.dsn, "talks", output="All counted.")
    page.locator(".result").get_by_text("All counted.").wait_for()
    assert serious(page) == []


def test_page_catches_up_on_what_it_missed(pages: Pages):
    web_tasks.runs(pages.dsn, "missed")
    web_tasks.says(pages.dsn, "missed", 0, "first.")
    early = pages.open("/tasks/missed")
    early.get_by_text("first.").wait_for()
    early.context.set_offline(True)
    with psycopg.connect(pages.dsn) as db:  # more than are kept for those who come later
        db.execute(
            "insert into agent_transcripts (task_id, fencing_token, batch, kind, path, lines, sha256)"
            " select 'missed', 7, n, 'event', '', 'line ' || n || chr(10), '' from generate_series(1, 150) n"
        )
    late = pages.open("/tasks/missed")
    late.get_by_text("line 150").wait_for()
    early.context.set_offline(False)
    early.get_by_text("line 150").wait_for()
    assert early.locator("[data-batch]").count() == 151


def test_earlier_part_of_a_long_transcript_is_loaded(pages: Pages):
    web_tasks.runs(pages.dsn, "long")
    for number in range(5):
        web_tasks.says(pages.dsn, "long", number, f"part {number} " + "x" * 200_000)
    page = pages.open("/tasks/long")
    page.get_by_text("part 4").wait_for()
    assert page.get_by_text("part 0").count() == 0
    while page.locator("[data-earlier]").count():
        before = page.locator("[data-batch]").count()
        page.locator("[data-earlier]").click()
        page.locator("[data-batch]").nth(before).wait_for(state="attached")  # a script's text would be refused: no eval
    page.get_by_text("part 0").wait_for()
    assert page.locator("[data-batch]").count() == 5


def test_line_of_ten_megabytes_is_cut_and_can_be_saved(pages: Pages):
    web_tasks.runs(pages.dsn, "wide")
    web_tasks.writes(pages.dsn, "wide", 0, "<b>" + "y" * (10 * MEGABYTE) + "\n")
    page = pages.open("/tasks/wide")
    page.get_by_text("more characters").wait_for()
    assert len(page.content()) < 200_000
    with page.expect_download() as saved:
        page.get_by_role("link", name="save the lines as they are stored").click()
    assert Path(saved.value.path()).stat().st_size == 10 * MEGABYTE + 4


def test_question_is_answered_on_the_tasks_page(pages: Pages):
    open_questions.ask(pages.dsn, "asks", open_questions.question(open_questions.DATABASE))
    page = pages.open("/tasks/asks")
    page.get_by_label("SQLite").check()
    page.get_by_role("button", name="Answer").click()
    until(lambda: pages.status("asks") == "pending")
    page.locator(".badge.pending").first.wait_for()
    assert page.get_by_role("button", name="Answer").count() == 0


@pytest.mark.parametrize(("button", "answer"), [("Approve", "yes"), ("Deny", "no")])
def test_approval_is_decided_on_the_tasks_page(pages: Pages, button: str, answer: str):
    task_id = open_questions.ask(pages.dsn, f"push {button}", open_questions.PUSH)
    page = pages.open(f"/tasks/{task_id}")
    page.get_by_role("button", name=button, exact=True).click()
    until(lambda: pages.status(task_id) == "pending")
    assert str(pages.row("answer", "agent_tasks where task_id = %s", task_id)[0]).startswith(answer)


def test_running_task_is_told_and_cancelled(pages: Pages):
    web_tasks.runs(pages.dsn, "works")
    page = pages.open("/tasks/works")
    page.get_by_label("Tell the agent something").fill("Mind the tests\nplease")
    page.get_by_role("button", name="Tell").click()
    until(lambda: pages.row("count(*)", "agent_messages where task_id = 'works'")[0] == 1)
    assert pages.row("body", "agent_messages where task_id = 'works'")[0] == "Mind the tests\nplease"
    page.locator("#task-messages").get_by_text("not delivered yet").wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("stopping").first.wait_for()


def test_finished_task_is_replied_to_and_retried(pages: Pages):
    web_tasks.runs(pages.dsn, "over")
    web_tasks.ends(pages.dsn, "over", "failed", error="it broke")
    page = pages.open("/tasks/over")
    assert page.get_by_text("it broke").is_visible()
    page.keyboard.press("r")
    page.keyboard.type("Now the docs")
    page.get_by_role("button", name="Reply").click()
    until(lambda: pages.row("count(*)", "agent_tasks where continues = 'over'")[0] == 1)
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Retry", exact=True).click()
    until(lambda: pages.status("over") in ("pending", "blocked"))
    page.get_by_label("Tell the agent something").wait_for()


def test_typed_text_outlives_a_change_of_the_task(pages: Pages):
    web_tasks.runs(pages.dsn, "typed")
    page = pages.open("/tasks/typed")
    page.get_by_label("Tell the agent something").fill("half a sent")
    web_tasks.says(pages.dsn, "typed", 0, "meanwhile.")
    page.get_by_text("meanwhile.").wait_for()
    with psycopg.connect(pages.dsn, autocommit=True) as db:
        db.execute(
            "update agent_tasks set error_message = 'changed', turbo_rev = turbo_rev + 1 where task_id = 'typed'"
        )
    page.get_by_text("changed").wait_for()
    assert page.get_by_label("Tell the agent something").input_value() == "half a sent"


def test_deleted_task_is_said_to_be_gone(pages: Pages):
    web_tasks.insert(pages.dsn, "doomed", hold_note := "Kept in sight", status="waiting")
    page = pages.open("/tasks/doomed")
    page.get_by_role("button", name="Release").wait_for()
    with psycopg.connect(pages.dsn, autocommit=True) as db:
        db.execute("delete from agent_tasks where task_id = 'doomed'")
    page.get_by_text("This task was deleted").wait_for()
    assert page.get_by_role("button", name="Release").count() == 0
    assert page.get_by_text(hold_note).first.is_visible()
    assert pages.web.get("/tasks/doomed").status == 404


def test_hostile_output_is_only_text(pages: Pages):
    name = 'ev"il/<b>&?#%2f\u202e'
    web_tasks.runs(pages.dsn, name, EVIL)
    web_tasks.says(pages.dsn, name, 0, EVIL, result=EVIL * 20)
    web_tasks.writes(pages.dsn, name, 1, EVIL.replace("\n", " ") + "\n")
    web_tasks.keeps(
        pages.dsn, name, ".turbo/diff.patch", f"diff --git a/x b/x\n@@ -1 +1 @@\n-{EVIL}\n+{EVIL}\n".encode()
    )
    web_tasks.keeps(pages.dsn, name, f"report/{EVIL[:60]}.html", EVIL.encode())
    web_tasks.insert(pages.dsn, f"{name} two", EVIL, needs=[name])
    path = "/tasks/" + "".join(f"%{byte:02X}" for byte in name.encode()).replace("%2F", "/")
    page = pages.open(path)
    page.get_by_text("onerror").first.wait_for()
    page.get_by_text("unfold").first.click()
    web_tasks.says(pages.dsn, name, 2, f"and more {EVIL}")
    page.get_by_text("and more").wait_for()
    web_tasks.ends(pages.dsn, name, output={"html": EVIL}, error=EVIL)
    page.locator(".result").wait_for()
    assert page.title() != "owned"
    assert page.locator("main script, main img, main iframe, main [onerror], main [onload]").count() == 0
    assert "\u202e" not in page.inner_text("body")
    assert "\x1b" not in page.content()
    assert page.get_by_text("{{7*7}}").count() > 0
    with page.expect_download() as saved:
        page.locator("a[download]").first.click()
    assert Path(saved.value.path()).read_text() == EVIL
    assert "/" not in saved.value.suggested_filename
    page.goto(page.url.replace("/tasks/", "/diff/"))
    page.locator(".diff .plus").wait_for()


def test_files_are_attachments_that_no_browser_shows(pages: Pages):
    web_tasks.runs(pages.dsn, "files")
    web_tasks.keeps(pages.dsn, "files", "report/index.html", b"<script>alert(1)</script>")
    answer = pages.web.get("/files/files?path=report/index.html")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith('attachment; filename="index.html"')
    assert pages.web.get("/files/files?path=../../etc/passwd").status == 404
    assert pages.web.get("/raw/files?at=1-1").status == 404
    assert pages.web.get("/raw/files?at=x").status == 400


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_are_drawn_and_have_their_tables(pages: Pages, scheme: str):
    web_tasks.runs(pages.dsn, f"counted {scheme}")
    web_tasks.ends(pages.dsn, f"counted {scheme}")
    page = pages.open("/charts", color_scheme=scheme, viewport={"width": 360, "height": 740})
    page.get_by_role("img", name="Tasks that ended").wait_for()
    page.get_by_text("As a table").first.click()
    assert page.get_by_role("table").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert serious(page) == []
