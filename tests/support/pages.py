"""A how-to page, followed literally: its blocks in their order, with a worker and a database of the test's."""

import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from tests.support.markdown import blocks, printed_as
from tests.support.prefork import TURBO
from tests.support.requirements import require
from tests.support.waiting import until
from tests.support.workers import Bench

PAGES = Path(__file__).parents[2] / "docs" / "how-to"


def follow_page(
    name: str, bench: Bench, here: Path, *, leave_out: Collection[str], rests: Callable[[], bool] | None = None
) -> int:
    """Runs the blocks, but for those marked with a word of `leave_out`; after each one waits until the fleet `rests`. How many ran."""
    here.mkdir()
    page = PAGES / name
    environment = {"TURBO_DSN": bench.dsn, "PATH": f"{TURBO.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(here)}
    workers: list[subprocess.Popen[bytes]] = []
    printed, ran = "", 0

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def nothing_runs() -> bool:
        return not bench.sql("select 1 from agent_tasks where status in ('pending', 'running')")

    try:
        for block in blocks(page):
            if block.info in leave_out:
                continue
            if block.language == "yaml":
                (here / "worker.yaml").write_text(block.text)
            elif block.language == "text":
                assert printed_as(block.text, printed), f"line {block.line} says\n{block.text}\nand it was\n{printed}"
            elif block.info == "worker":
                with (here / "log").open("wb") as log:
                    words = block.text.split()
                    workers.append(subprocess.Popen(words, cwd=here, env=environment, stdout=log, stderr=log))
                until(lambda: b"listening on channel" in (here / "log").read_bytes(), 30, (here / "log").read_text)
            elif block.language == "sql":
                run(require("psql"), bench.dsn, "-X", "-v", "ON_ERROR_STOP=1", "-c", block.text)
            elif block.language == "python":
                run(sys.executable, "-c", block.text)
            else:
                printed = run("bash", "-ec", block.text)
            ran += 1
            if workers:
                until(rests or nothing_runs, 30, (here / "log").read_text)
    finally:
        for worker in workers:
            worker.terminate()
            worker.wait(30)
    return ran
