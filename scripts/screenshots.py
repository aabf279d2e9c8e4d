"""make screenshots: pictures of the page and of `turbo top`, as the README shows them, from a tour of its own.

Writes docs/images/*.png, each below MOST_BYTES. Needs a Chromium (Debian: apt install chromium); TURBO_CHROMIUM names another one.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import tour
import tour_scenes as scenes
from playwright.sync_api import Browser, Page, sync_playwright
from tour_work import Work, write_history

from turbo import Client, embedded

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
MOST_BYTES = 200_000
SECONDS = 120.0
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
TERMINAL = (150, 40)


def main() -> int:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="turbo-screenshots-") as name, embedded.temporary() as server:
        scratch = Path(name)
        environment = {**os.environ, "TURBO_DSN": server.dsn}
        subprocess.run([tour.TURBO, "migrate"], env=environment, check=True, stdout=subprocess.DEVNULL)
        with psycopg.connect(server.dsn) as db:
            write_history(db)
        with (
            tour.fleet(server.dsn, scratch, 1.0),
            Client(server.dsn) as client,
            tour.page(server.dsn, scratch, 0) as shown,
            sync_playwright() as playwright,
        ):
            work = Work(client)
            work.first()
            assert shown.stdout is not None
            link = next(found[0] for line in shown.stdout if (found := re.search(r"http://\S+", line)))
            browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
            pictures(browser, link, client, work, server.dsn, scratch)
            browser.close()
    return 0


def chromium() -> str:
    path = os.environ.get("TURBO_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise SystemExit("no Chromium here: apt install chromium, or name one in TURBO_CHROMIUM")
    return path


def pictures(browser: Browser, link: str, client: Client, work: Work, dsn: str, scratch: Path) -> None:
    signed_in = browser.new_context()
    page = signed_in.new_page()
    page.goto(link)
    page.get_by_role("heading", name="Queues").wait_for()
    state, origin = signed_in.storage_state(), re.match(r"http://[^/]+", page.url)
    assert origin is not None

    def picture(name: str, path: str, size: dict[str, int], scheme: str = "light") -> None:
        context = browser.new_context(storage_state=state, viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        shown = context.new_page()
        shown.goto(origin[0] + path)
        shown.wait_for_timeout(1500)  # for the live sections
        save(shown, name)
        context.close()

    wait_until(lambda: len(client.questions()) >= 3)
    for make in (work.fix, work.migration, work.deploy, work.explain, work.migration):
        make()
    asks = task_of(client, scenes.COUPONS)
    picture("task-phone", f"/tasks/{asks}", PHONE, "dark")
    picture("fleet", "/", DESK)
    picture("fleet-dark", "/", DESK, "dark")
    picture("fleet-phone", "/", PHONE)
    terminal(browser, dsn, scratch)
    fixed = task_of(client, scenes.FIX)
    wait_until(lambda: client.get(fixed).finished)
    picture("task", f"/tasks/{fixed}", DESK)
    picture("task-dark", f"/tasks/{fixed}", DESK, "dark")
    picture("charts", "/charts", DESK)


def task_of(client: Client, title: str) -> str:
    """The oldest task of a scene that is no part of the history."""
    found = [task for task in client.tasks(limit=200) if task.task_description.startswith(title)]
    return [task.task_id for task in found if not task.task_id.startswith("past-")][-1]


def terminal(browser: Browser, dsn: str, scratch: Path) -> None:
    """`turbo top`: Textual draws itself as SVG."""
    drawing = scratch / "top.svg"
    with ThreadPoolExecutor(1) as thread:  # Playwright has this thread's event loop
        drawing.write_text(thread.submit(lambda: asyncio.run(top(dsn, scratch))).result())
    context = browser.new_context(viewport={"width": 1480, "height": 900})
    page = context.new_page()
    page.goto(drawing.as_uri())
    save(page, "top", "svg")
    context.close()


async def top(dsn: str, scratch: Path) -> str:
    from turbo.cli.live.app import Top
    from turbo.cli.live.feed import Feed, View

    feed = Feed(dsn)
    app = Top(feed, dsn, scratch, 0.5)
    async with app.run_test(size=TERMINAL) as pilot:
        await feed.refresh(View.RUNNING)
        await pilot.pause(2.5)
        return app.export_screenshot(title="turbo top")


def save(page: Page, name: str, selector: str | None = None) -> None:
    path = IMAGES / f"{name}.png"
    if selector is None:
        page.screenshot(path=path, animations="disabled")
    else:
        page.locator(selector).first.screenshot(path=path)
    size = path.stat().st_size
    print(f"{path.relative_to(IMAGES.parents[1])}  {size:,} bytes", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"{path} has more than {MOST_BYTES:,} bytes")


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"nothing came within {SECONDS:g} s")
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
