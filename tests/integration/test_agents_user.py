"""docs/how-to/agents-user.md, followed literally: its blocks in their order, with users, paths and a database of the test's."""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import conninfo

from tests.support import users
from tests.support.markdown import blocks, printed_as
from tests.support.repositories import git_host
from tests.support.requirements import require
from tests.support.users import User
from tests.support.waiting import until

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "agents-user.md"


@pytest.fixture
def worker(dsn: str) -> Iterator[User]:
    """The worker's user, with a `turbo` on its PATH and a database."""
    require("sudo")
    with users.a_user("howto") as user:
        command, environment = user.python("-c", "from turbo.cli.main import main; main()")
        words = " ".join(f"'{word}'" for word in command)
        user.write("turbo", f"#!/bin/sh\nPYTHONPATH='{environment.get('PYTHONPATH', '')}' exec {words} \"$@\"\n")
        yield user


def test_page_works_as_written(worker: User, dsn: str, tmp_path: Path) -> None:
    agents = f"agents-of-{os.getpid()}"
    login = f"howto_{os.getpid()}"
    stack = contextlib.ExitStack()
    host = stack.enter_context(git_host(tmp_path))
    sudoers = Path(f"/etc/sudoers.d/turbo-{agents}")
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(f"create role {login} login superuser password 'x'")
    here = {
        "TURBO_DSN": conninfo.make_conninfo(dsn, user=login, password="x"),
        "PATH": f"{worker.home}:{os.environ['PATH']}",
    }

    def placed(text: str) -> str:
        """With the names of this test."""
        text = re.sub(r"\bturbo (?=ALL)|(?<=~)turbo\b", lambda found: found[0].replace("turbo", worker.name), text)
        text = text.replace("https://git.example.org/project.git", host.url)
        return re.sub(r"(?<!\.)\bagents\b(?!\.sudoers)", agents, text)

    services: list[subprocess.Popen[bytes]] = []
    printed = ""
    try:
        for block in blocks(PAGE):
            text = placed(block.text)
            if block.language == "yaml":
                worker.write("worker.yaml", text)
            elif block.language == "text":
                assert printed_as(text, printed), f"line {block.line} says\n{text}\nand it was\n{printed}"
            elif block.info == "worker":
                log = tmp_path / "log"
                with log.open("wb") as out:
                    services.append(worker.popen(["/bin/sh", "-ec", f"cd; exec {text}"], here, out))
                until(lambda: b"listening on channel" in log.read_bytes(), 30, log.read_text)  # noqa: B023
            elif block.info == "as-worker":
                printed = worker.run(text, **here)
            else:
                subprocess.run(["bash", "-ec", text], cwd=tmp_path, check=True)
    finally:
        for service in services:
            service.terminate()
            service.wait(30)
        sudoers.unlink(missing_ok=True)
        stack.close()
        users.delete(agents)
        with psycopg.connect(dsn, autocommit=True) as db:
            db.execute(f"drop role {login}")
    assert len(services) == 1
    assert Path(sys.executable).exists()
