"""The pages of docs/how-to that a reader can follow without an agent's CLI, followed literally."""

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from tests.support.notices import NO_SECRETS
from tests.support.pages import follow_page
from tests.support.workers import Bench
from turbo.domain.event import Event, notice


def settled(bench: Bench) -> bool:
    """Nothing runs, and nothing that waits for others could be let go."""
    return bench.sql(
        "select not public.turbo_unsettled() and not exists (select from agent_tasks where status in ('pending', 'running'))"
    ) == [(True,)]


def test_page_on_graphs_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page("graphs.md", bench, tmp_path / "reader", leave_out=["claude"], rests=lambda: settled(bench))
    assert ran > 12
    found = dict(bench.sql("select task_id::text, status::text from agent_tasks"))
    assert {found[name] for name in ("review", "review_2", "review_3", "review_4", "tell_4")} == {"completed"}
    assert {found[name] for name in ("plan_5", "part_5", "other_5")} == {"cancelled"}


def test_page_on_conversations_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page(
        "conversations.md", bench, tmp_path / "reader", leave_out=["claude"], rests=lambda: settled(bench)
    )
    assert ran > 9
    assert not bench.sql("select task_id from agent_tasks where status <> 'completed'")


def fired(bench: Bench) -> bool:
    """The schedule of seconds has fired and its task is over, and the one whose tasks fail has paused itself."""
    waits = """
        select exists (select from agent_schedules where name = 'flaky' and since = created_at and enabled)
            or exists (select from agent_schedules where name = 'probe')
               and not exists (select from agent_tasks where task_id::text like 'probe-%%' and status = 'completed')
    """
    return bench.sql(waits) == [(False,)]


def test_page_on_schedules_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page("schedules.md", bench, tmp_path / "reader", leave_out=[], rests=lambda: fired(bench))
    assert ran > 18
    found = bench.sql("select task_id::text, status::text, parent_task_id is null from agent_tasks")
    nights = sorted((status, parent) for task_id, status, parent in found if task_id.startswith("nightly-2"))
    assert nights == [("completed", False)] * 4 + [("completed", True)]
    assert [status for task_id, status, _ in found if task_id.startswith("probe-")].count("completed") > 1


def test_page_on_checked_work_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page("checked-work.md", bench, tmp_path / "reader", leave_out=["claude"])
    assert ran > 7
    found = {
        name: (status, kind)
        for name, status, kind in bench.sql("select task_id::text, status::text, failure_kind from agent_tasks")
    }
    passed, failed = ("completed", None), ("failed", "unverified")
    assert found == {"good": passed, "bad": failed, "down": passed, "odd": failed}
    checks = bench.sql(
        "select task_id::text, success from agent_actions where action_type = 'checked' order by action_id"
    )
    assert checks == [("good", True), ("bad", False), ("bad", False), ("down", True), ("odd", False)]


def test_page_on_costs_works_as_written(bench: Bench, tmp_path: Path) -> None:
    insert = (
        "insert into agent_usage (task_id, fencing_token, executor, account, model, attempt, queue, task_type, submitted_by,"
        " input_tokens, output_tokens, cache_read_tokens, cache_write_tokens, cost_usd)"
        " values (%s, %s, 'claude', %s, %s, 1, 'default', %s, 'ana', %s, %s, %s, %s, %s)"
    )
    for token, model, into, out, cost in ((1, "sonnet", 4000, 1000, 0.46), (1, "haiku", 40, 60, 0.02)):
        bench.sql(
            insert, "a", token, "max", model, "review", into, out, *((80_000, 6000) if into > 40 else (0, 0)), cost
        )
    for task_id, token in (("b", 2), ("a", 3)):
        bench.sql(insert, task_id, token, "max", "sonnet", "review", 4000, 1000, 80_000, 6000, 0.47)
    bench.sql(insert, "c", 4, "api", "gpt-5", "triage", 50_000, 10_000, 0, 0, None)
    assert follow_page("costs.md", bench, tmp_path / "reader", leave_out=[]) > 8


def test_page_on_accounts_works_as_written(bench: Bench, tmp_path: Path) -> None:
    assert follow_page("accounts.md", bench, tmp_path / "reader", leave_out=[]) > 4


def placed(bench: Bench) -> bool:
    """Nothing runs, and what is pending can run nowhere."""
    left = """
        select count(*) filter (where status <> 'pending') = 0 and count(*) = (select coalesce(sum(tasks), 0) from turbo_unplaceable(9))
          from agent_tasks where status in ('pending', 'running')
    """
    return bench.sql(left) == [(True,)]


def test_page_on_placement_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page("placement.md", bench, tmp_path / "reader", leave_out=[], rests=lambda: placed(bench))
    assert ran == 7
    assert bench.sql("select distinct status from agent_tasks") == [("completed",)]


def full(bench: Bench) -> bool:
    """As many tasks of the key run as may."""
    left = """
        select coalesce((select running from agent_limits), 1) <= count(*) filter (where status = 'running')
               or count(*) filter (where status = 'pending') = 0
          from agent_tasks
    """
    return bench.sql(left) == [(True,)]


def test_page_on_limits_works_as_written(bench: Bench, tmp_path: Path) -> None:
    assert follow_page("limits.md", bench, tmp_path / "reader", leave_out=[], rests=lambda: full(bench)) > 12
    assert bench.sql("select * from agent_limits") == [("gpu", 2)]


def capped(bench: Bench) -> bool:
    """Nothing runs, each budget is counted, and what is pending waits for one of them."""
    waits = """
        select exists (select from agent_tasks where status = 'running')
            or exists (select from agent_budgets where since is null)
            or exists (select from agent_tasks where status = 'pending')
               and not exists (select from agent_budgets where paused_until is not null)
    """
    return bench.sql(waits) == [(False,)]


def test_page_on_budgets_works_as_written(bench: Bench, tmp_path: Path) -> None:
    ran = follow_page("budgets.md", bench, tmp_path / "reader", leave_out=[], rests=lambda: capped(bench))
    assert ran > 14
    assert bench.sql("select name, runs, spent_runs from agent_budgets") == [("probes", 200, 5)]
    assert bench.sql("select event, about from agent_events order by event_id")[-1] == ("budget_spent", "probes")


def test_page_on_notifications_works_as_written(bench: Bench, tmp_path: Path) -> None:
    here = tmp_path / "reader"
    ran = follow_page("notifications.md", bench, here, leave_out=["elsewhere"], rests=lambda: settled(bench))
    assert ran > 14
    programs = here / "bin"
    programs.mkdir()
    for name in ("notify-send", "osascript", "sendmail"):
        (programs / name).write_text('#!/bin/sh\nprintf "[%s]" "$@" > "$HOME/asked"; cat > "$HOME/read"\n')
        (programs / name).chmod(0o755)
    body = notice(
        "s",
        [Event("actions", 7, "failed", datetime.now(UTC), {"task_id": "t", "text": "a 'b' \"c\" $(id)"})],
        NO_SECRETS,
    )

    def asked(script: str) -> str:
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(here)}
        given = json.dumps(dict(body.body))
        subprocess.run([f"./{script}"], cwd=here, env=environment, input=given, text=True, check=True, timeout=30)
        return (here / "asked").read_text()

    text = "task t failed: a 'b' \"c\" $(id)"
    assert asked("desktop-linux") == f"[--app-name=turbo][--][turbo][{text}]"
    assert asked("desktop-macos").endswith(f"[-e][end run][{text}]")
    assert asked("mail-me") == "[-t]"
    assert f"Subject: turbo: {text}\n" in (here / "read").read_text()
