"""A migration killed at its three kinds of wait, and run again: nothing it left behind is in the way.

SIGKILL reaches the program, not its backend: that one must notice by itself that its client is gone, or it would go on
holding the migration lock for as long as it waits.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.support.migrations import INDEXES, OLD_TABLE, forget, open_transaction, query, version_of
from tests.support.waiting import until
from turbo.migrate import SCHEMA_VERSION, migrate

PROGRAM = """
import sys
from turbo.migrate import Patience, migrate
migrate(sys.argv[1], patience=Patience(lock_timeout=60, attempts=1), report=lambda line: print(line, flush=True))
"""

INSERT = "insert into agent_tasks (task_description) values ('not committed')"


@contextmanager
def migration(dsn: str) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, dsn], stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def heard(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout
    for line in process.stdout:
        if words in line:
            return
    raise AssertionError(f"the migration ended without saying {words!r}")


def holds(dsn: str, condition: str) -> bool:
    return query(dsn, condition) == [(True,)]


def kill_and_see_its_backend_gone(process: "subprocess.Popen[str]", dsn: str) -> None:
    process.kill()
    process.wait()
    no_session = (
        "select not exists (select from pg_stat_activity where datname = current_database()"
        " and application_name like 'turbo migrate%')"
    )
    until(lambda: holds(dsn, no_session), 30, "its backend is gone")


def assert_whole(dsn: str) -> None:
    assert migrate(dsn).version == SCHEMA_VERSION
    assert query(dsn, "select version from turbo_migrations order by version") == [
        (version,) for version in range(1, SCHEMA_VERSION + 1)
    ]
    assert query(dsn, "select count(*) from pg_index where not indisvalid") == [(0,)]
    query(dsn, "insert into agent_tasks (task_id, task_description) values ('after', 'x')")
    assert query(dsn, "select status, queue from agent_tasks where task_id = 'after'") == [("pending", "default")]
    assert migrate(dsn).applied == ()


def test_killed_while_waiting_for_a_table_it_resumes(empty_dsn: str) -> None:
    query(empty_dsn, OLD_TABLE)
    with open_transaction(empty_dsn, "select * from agent_tasks"), migration(empty_dsn) as process:
        heard(process, "waiting for a lock")
        kill_and_see_its_backend_gone(process, empty_dsn)
    assert_whole(empty_dsn)


def test_killed_while_building_an_index_it_resumes(dsn: str) -> None:
    query(dsn, "drop index agent_tasks_claim")
    forget(dsn, INDEXES)
    with ExitStack() as stack, migration(dsn) as process:
        old = stack.enter_context(open_transaction(dsn, INSERT))
        old.execute("select pg_sleep(1.1)")
        heard(process, "waiting for a lock")
        # A build is begun past a transaction that has only just begun: hand over from one to the next until it is.
        while query(dsn, "select to_regclass('agent_tasks_claim')") == [(None,)]:
            young = stack.enter_context(open_transaction(dsn, INSERT))
            old.close()
            old = young
            time.sleep(0.5)
        assert query(dsn, "select indisvalid from pg_index where indexrelid = 'agent_tasks_claim'::regclass") == [
            (False,)
        ]
        kill_and_see_its_backend_gone(process, dsn)
        assert query(dsn, "select indisvalid from pg_index where indexrelid = 'agent_tasks_claim'::regclass") == [
            (False,)
        ]
    assert_whole(dsn)


def test_killed_inside_a_transaction_it_resumes(dsn: str) -> None:
    """The triggers' file has changed functions already when it waits for the last table."""
    forget(dsn, version_of("triggers"))
    query(dsn, "drop trigger turbo_notify_accounts on agent_accounts; drop trigger turbo_notify_queues on agent_queues")
    with open_transaction(dsn, "lock table agent_accounts in share row exclusive mode"), migration(dsn) as process:
        heard(process, "waiting for a lock")
        kill_and_see_its_backend_gone(process, dsn)
        assert query(dsn, "select count(*) from pg_trigger where tgname = 'turbo_notify_queues'") == [(0,)]
    assert_whole(dsn)
