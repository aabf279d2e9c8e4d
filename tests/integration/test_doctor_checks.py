"""What else the doctor finds, each with the set-up that has it and one that has not."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import conninfo

from tests.support.configs import config_of
from tests.support.repositories import Workshop, repository
from tests.support.rig import Rig, finished
from tests.support.shell import Shell
from turbo import embedded
from turbo.config.worker import WorkerConfig
from turbo.doctor import Finding, Level, examine
from turbo.doctor.session import Session
from turbo.doctor.surroundings import of_worker
from turbo.domain.claim import ClaimRef
from turbo.host.spool import Spool
from turbo.observability.endpoint import Endpoint
from turbo.observability.metrics import Metrics
from turbo.workspaces.record import Policy


def found(dsn: str, config: WorkerConfig | None = None, **settings: Any) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(dsn, config, **settings)}


def wrong(dsn: str, config: WorkerConfig | None = None, **settings: Any) -> dict[str, Finding]:
    bad = {n: f for n, f in found(dsn, config, **settings).items() if f.level in (Level.WARN, Level.FAIL)}
    assert all(finding.do for finding in bad.values())
    return bad


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        for statement in statements:
            db.execute(statement)  # type: ignore[call-overload]


# ── the database ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "check", "text", "do"),
    [
        ("drop trigger turbo_wake_insert on agent_tasks", "triggers", "turbo_wake_insert", "migrations/0003_triggers.sql"),
        ("alter table agent_tasks disable trigger zz_turbo_judge_update", "triggers", "disabled: zz_turbo", "ENABLE TRIGGER"),
        ("drop index agent_tasks_claim", "indexes", "agent_tasks_claim is missing", "create index concurrently"),
        (
            "update pg_index set indisvalid = false where indexrelid = 'agent_tasks_one_running_per_place'::regclass",
            "indexes",
            "is INVALID",
            "DROP INDEX CONCURRENTLY public.agent_tasks_one_running_per_place; create unique index",
        ),
        ("create rule theirs as on insert to agent_actions do also nothing", "", "", ""),
        ("create rule theirs as on insert to agent_tasks do also nothing", "other triggers", "a rule", "DROP RULE"),
        ("create table part () inherits (agent_tasks)", "table", "inherit", "NO INHERIT"),
        ("alter table agent_tasks set unlogged", "table", "UNLOGGED", "SET LOGGED"),
        ("update turbo_migrations set checksum = 'x' where version = 2", "schema", "has changed since", "migrations/"),
    ],
)  # fmt: skip
def test_schema_changed_by_hand_is_reported(dsn: str, statement: str, check: str, text: str, do: str) -> None:
    run(dsn, statement)
    bad = wrong(dsn)
    assert list(bad) == ([check] if check else [])
    if check:
        assert text in bad[check].what
        assert do in bad[check].do


def test_advice_for_an_index_can_be_run(dsn: str) -> None:
    run(dsn, "update pg_index set indisvalid = false where indexrelid = 'agent_tasks_claim'::regclass")
    run(dsn, *wrong(dsn)["indexes"].do.split("; "))
    assert wrong(dsn) == {}


def test_partitioned_table_is_reported(empty_dsn: str) -> None:
    run(empty_dsn, "create table agent_tasks (task_id text, status text) partition by list (status)")
    bad = wrong(empty_dsn)
    assert bad["table"].level is Level.FAIL
    assert "partitioned" in bad["table"].what
    assert set(bad) == {"table", "schema"}


@contextlib.contextmanager
def role(dsn: str, *grants: str) -> Iterator[str]:
    name = f"r{time.time_ns()}"
    run(dsn, f"create role {name} login", *(g.format(role=name) for g in grants))
    try:
        yield conninfo.make_conninfo(dsn, user=name)
    finally:
        run(dsn, f"drop owned by {name}", f"drop role {name}")


def test_role_without_worker_rights_is_reported(dsn: str, tmp_path: Path) -> None:
    everything = "grant {what} to {{role}}"
    may = [
        "select on all tables in schema public",
        "usage on sequence turbo_fence_seq, turbo_wait_seq",
        "update on turbo_key_slots",
    ]
    may += [
        "insert, update, delete on agent_tasks, agent_actions, agent_workers, agent_leader, agent_progress, agent_accounts,"
        " agent_account_windows, agent_dependencies, agent_blocked, agent_unsettled, agent_conversations",
        "update on agent_messages, agent_subscriptions",
        "insert on agent_usage, agent_transcripts, agent_files",
        "update, delete on agent_requirements",
        "insert, update, delete on agent_portable",
        "execute on all functions in schema public",
    ]
    with role(dsn, *(everything.format(what=m).replace(" to ", " to ") for m in may)) as enough:
        assert wrong(enough, config_of(tmp_path)) == {}
    with role(dsn, "grant select on all tables in schema public to {role}") as reader:
        assert set(wrong(reader)) == set(), "without a worker's configuration nobody said that it is one"
        bad = wrong(reader, config_of(tmp_path))
        assert list(bad) == ["privileges"]
        assert "agent_tasks: update" in bad["privileges"].what
        assert "agent_tasks: select" not in bad["privileges"].what
        assert "turbo_fence_seq: usage" in bad["privileges"].what
        assert "agent_usage: insert" in bad["privileges"].what


def test_row_security_and_read_only_roles_are_reported(dsn: str) -> None:
    with role(dsn, "grant select on all tables in schema public to {role}") as reader:
        run(dsn, "alter table agent_tasks enable row level security")
        bad = wrong(reader)
        assert list(bad) == ["table"]
        assert "row-level security" in bad["table"].what
        name = conninfo.conninfo_to_dict(reader)["user"]
        run(
            dsn,
            "alter table agent_tasks disable row level security",
            f"alter role {name} set default_transaction_read_only = on",
        )
        bad = wrong(reader)
        assert list(bad) == ["writable"]
        assert "default_transaction_read_only" in bad["writable"].what


def test_commits_waiting_for_a_missing_standby_are_reported(own_server_dsn: str) -> None:
    with psycopg.connect(own_server_dsn, autocommit=True) as db:
        db.execute("alter system set synchronous_standby_names = 'beta'")
        db.execute("select pg_reload_conf()")
    with psycopg.connect(own_server_dsn, autocommit=True) as db:
        while db.execute("show synchronous_standby_names").fetchone() != ("beta",):
            time.sleep(0.01)
    bad = wrong(own_server_dsn)
    assert list(bad) == ["standbys"]
    assert bad["standbys"].level is Level.FAIL
    assert "beta" in bad["standbys"].what


def test_prepared_transaction_is_reported(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("begin")
        db.execute("insert into turbo_meta values ('theirs', '1')")
        db.execute("prepare transaction 'theirs'")
        try:
            bad = wrong(dsn, old_transaction_seconds=0.0)
            assert list(bad) == ["transactions"]
            assert "ROLLBACK PREPARED 'theirs'" in bad["transactions"].do
        finally:
            db.execute("rollback prepared 'theirs'")
    assert wrong(dsn, old_transaction_seconds=0.0) == {}


def test_host_is_checked_without_a_database(tmp_path: Path) -> None:
    port = embedded.free_port()
    done = found(f"host=127.0.0.1 port={port} user=x", config_of(tmp_path))
    assert {n for n, f in done.items() if f.level is Level.FAIL} == {"database"}
    assert done["schema"].what == "see database"
    assert done["state directory"].level is Level.OK
    assert done["executor sh"].level is Level.OK


def test_silent_server_is_not_waited_for(own_server: embedded.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("turbo.doctor.session.DEADLINE_SECONDS", 0.5)
    with psycopg.connect(own_server.dsn) as locking:
        locking.execute("lock table turbo_migrations in access exclusive mode")
        began = time.monotonic()
        with Session(own_server.dsn) as session:
            session.open()
            with pytest.raises(psycopg.OperationalError), session.deadline(0.5):
                session.connection.execute("select count(*) from public.turbo_migrations")
        assert time.monotonic() - began < 10


# ── this host ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_metrics_port_is_free_ours_or_taken_by_another(dsn: str, tmp_path: Path) -> None:
    port = embedded.free_port()
    config = config_of(tmp_path, metrics={"port": port})
    assert found(dsn, config)["metrics port"].what == f"127.0.0.1:{port} is free"
    with socket.create_server(("127.0.0.1", port)) as theirs:
        theirs.settimeout(10)
        bad = wrong(dsn, config)
        assert list(bad) == ["metrics port"]
        assert "another program" in bad["metrics port"].what
    ours = Endpoint(Metrics().registry, port=port)
    ours.start(lambda name, error: None)
    try:
        assert found(dsn, config)["metrics port"].what == f"127.0.0.1:{port} is used by a turbo worker"
    finally:
        asyncio.run(ours.stop())
    assert "no such address" in wrong(dsn, config_of(tmp_path, metrics={"host": "192.0.2.1"}))["metrics port"].what


async def test_kept_worktrees_and_those_over_the_cap_are_reported(dsn: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "state").mkdir(mode=0o700)
    assert found(dsn, config)["worktrees"].what == "no worktrees are kept"
    shop = Workshop(tmp_path, repository(tmp_path / "project"))
    assert shop.state.root == tmp_path / "state"
    await shop.run("t1", "echo x >new", policy=Policy(keep="always"))
    told = found(dsn, config)["worktrees"]
    assert told.level is Level.OK
    assert told.what.startswith("1 kept, ")
    assert "turbo/t1 (" in told.what
    await shop.run("t2", "echo x >new", policy=Policy(keep="always", max_bytes=1))
    bad = wrong(dsn, config)
    assert list(bad) == ["worktrees"]
    assert bad["worktrees"].level is Level.WARN
    assert "executor shop" in bad["worktrees"].what
    assert "turbo diff ID" in bad["worktrees"].do


def test_unrecorded_results_of_dead_workers_are_reported(dsn: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    home = tmp_path / "state" / "workers"
    gone = "alpha-999999999-abcdef"  # no pid is so high
    (tmp_path / "state").mkdir(mode=0o700)
    spool = Spool(home / gone / "spool")
    entry = spool.put(finished(ClaimRef("t", 1), gone))
    bad = wrong(dsn, config)
    assert list(bad) == ["spool"]
    assert f"1 of {gone}" in bad["spool"].what
    spool.quarantine(entry, "why")
    assert "could not be recorded" in wrong(dsn, config)["spool"].what
    (home / gone).rename(home / "gone")
    Spool(home / f"alpha-{os.getpid()}-abcdef" / "spool").put(finished(ClaimRef("t", 1), "me"))
    assert "could not be recorded" in wrong(dsn, config)["spool"].what
    for file in (home / "gone" / "spool" / "quarantine").iterdir():
        file.unlink()
    assert wrong(dsn, config) == {}, "a live worker's results are its own business"


def test_the_spool_check_reports_every_home(dsn: str, tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "state").mkdir(mode=0o700)
    homes = [tmp_path / "state" / "workers" / f"{name}-999999999-abcdef" for name in ("alpha", "beta", "gamma")]
    for home in homes[:2]:
        spool = Spool(home / "spool")
        spool.quarantine(spool.put(finished(ClaimRef("t", 1), home.name)), "why")
    for home in homes[1:]:
        Spool(home / "spool").put(finished(ClaimRef("u", 1), home.name))
    (homes[2] / "spool" / "corrupt").mkdir(exist_ok=True)
    (homes[2] / "spool" / "corrupt" / "1.json").write_text("{")
    bad = wrong(dsn, config)["spool"]
    for part in (
        f"1 in {homes[0] / 'spool' / 'quarantine'}, 1 in {homes[1] / 'spool' / 'quarantine'}",
        f"1 in {homes[2] / 'spool' / 'corrupt'}",
        f"1 of {homes[1].name}, 1 of {homes[2].name}",
    ):
        assert part in bad.what
    for part in ("each task's error", "corrupt files", "start a worker"):
        assert part in bad.do


def test_missing_programs_handlers_and_logins_are_reported(dsn: str, tmp_path: Path) -> None:
    cli = tmp_path / "cli"
    cli.write_text('#!/bin/sh\ncase "$*" in *--version) echo "2.1.330 (Claude Code)";; *auth*) exit 1;; esac\n')
    cli.chmod(0o755)
    old = tmp_path / "old"
    old.write_text('#!/bin/sh\ncase "$*" in *--version) echo "2.1.40 (Claude Code)";; *auth*) exit 0;; esac\n')
    old.chmod(0o755)
    codex = tmp_path / "codex"
    codex.write_text(
        '#!/bin/sh\ncase "$1" in --version) echo "codex-cli 0.169.0";; *) echo "bwrap: no" >&2; exit 1;; esac\n'
    )
    codex.chmod(0o755)
    copilot = tmp_path / "copilot"
    copilot.write_text('#!/bin/sh\nprintf "GitHub Copilot CLI 1.0.102.\\nRun copilot update\\n"\n')
    copilot.chmod(0o755)
    executors: dict[str, Any] = {
        "sh": {"kind": "command", "command": ["sh", "-c", "true"]},
        "gone": {"kind": "command", "command": ["no-such-program"]},
        "nowhere": {"kind": "command", "command": ["sh"], "cwd": str(tmp_path / "nowhere")},
        "typo": {"kind": "python", "handler": "turbo.testing:nop"},
        "out": {"kind": "claude", "command": [str(cli)]},
        "old": {"kind": "claude", "command": [str(old)]},
        "codex": {"kind": "codex", "command": [str(codex)]},
        "boxless": {"kind": "codex", "command": [str(codex)], "env": {"CODEX_API_KEY": "x"}},
        "unboxed": {
            "kind": "codex",
            "command": [str(codex)],
            "env": {"CODEX_API_KEY": "x"},
            "sandbox": "danger-full-access",
        },
        "octo": {"kind": "copilot", "command": [str(copilot)], "env": {"HOME": str(tmp_path)}},
        "token": {"kind": "copilot", "command": [str(copilot)], "env": {"COPILOT_GITHUB_TOKEN": "x"}},
        "unused": {"kind": "command", "command": ["no-such-program"]},
    }
    routes = {name: name for name in executors if name != "unused"}
    bad = wrong(dsn, config_of(tmp_path, executors=executors, routes=routes))
    assert {name: f.level for name, f in bad.items()} == {
        "executor gone": Level.FAIL,
        "executor nowhere": Level.FAIL,
        "executor typo": Level.FAIL,
        "executor out": Level.FAIL,
        "executor old": Level.WARN,
        "executor codex": Level.FAIL,
        "executor boxless": Level.FAIL,
        "executor octo": Level.WARN,
    }
    assert "nowhere" in bad["executor nowhere"].what
    assert "not logged in" in bad["executor out"].what
    assert "setup-token" in bad["executor out"].do
    assert "Codex CLI 0.169.0 is not logged in" in bad["executor codex"].what
    assert "codex login" in bad["executor codex"].do
    assert "its sandbox cannot be made on this host: bwrap: no" in bad["executor boxless"].what
    assert "GitHub Copilot CLI 1.0.102 does not report whether it is logged in" in bad["executor octo"].what
    assert "COPILOT_GITHUB_TOKEN" in bad["executor octo"].do


def test_environment_is_read_from_a_live_worker_of_the_host(dsn: str, tmp_path: Path) -> None:
    """Without one, or where its pid is somebody else's now, it is the shell's, and that is said."""
    rows = [{"worker_id": "w-1", "name": "w", "host": "here", "pid": os.getpid()}]
    assert of_worker(rows, "here", None).whose == "in this shell's environment, because no worker runs here", (
        "pytest is no worker"
    )
    assert of_worker(rows, "elsewhere", None).variables == dict(os.environ)


# ── as a person calls it ────────────────────────────────────────────────────────────────────────────────────────────


def test_doctor_prints_its_lines_and_exit_codes(dsn: str, tmp_path: Path) -> None:
    shell = Shell(dsn, tmp_path)
    done = shell("doctor")
    assert done.code == 0
    assert {line.split()[0] for line in done.lines} == {"ok", "skip"}
    assert done.err.strip().endswith("3 skip"), "no worker twice, and no configuration"
    shown = shell.terminal("doctor", columns=40).ended()
    assert shown.code == 0
    assert max(map(len, shown.text.splitlines())) <= 40
    assert "✓ database" in shown.text
    away = shell("doctor", TURBO_DSN="host=127.0.0.1 port=1 password=hush")
    assert away.code == 1
    assert "hush" not in away.out + away.err
    assert sum(line.startswith("skip") for line in away.lines) == 2, "what hangs on it shares a line"
    shell("doctor", "--config", tmp_path / "none.yaml").one_line(2, "cannot be read")
    file = tmp_path / "w.yaml"
    file.write_text(yaml.safe_dump({"executors": {"x": {"kind": "command", "comand": ["x"]}}}))
    assert shell("doctor", "--config", file).code == 2


def test_worker_env_file_gives_the_dsn_and_is_checked(dsn: str, tmp_path: Path) -> None:
    env_file = tmp_path / "worker.env"
    env_file.write_text(f"TURBO_DSN={dsn}\n")
    env_file.chmod(0o600)
    file = tmp_path / "w.yaml"
    file.write_text(config_of(tmp_path).model_dump_json())
    shell = Shell("", tmp_path, {"TURBO_CONFIG": str(file)})
    done = shell("doctor", "--env-file", env_file, "--json")
    assert done.code == 0, done.out
    assert "env file" in {one["name"] for one in done.json["checks"]}
    env_file.chmod(0o640)
    done = shell("doctor", "--env-file", env_file, "--json", TURBO_DSN=dsn)
    assert [one["name"] for one in done.json["checks"] if one["level"] == "fail"] == ["env file"]


async def test_worker_answers_the_listening_check(dsn: str) -> None:
    async with Rig(dsn):
        assert (await asyncio.to_thread(found, dsn))["workers hear"].level is Level.OK
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute("update agent_workers set heartbeat_at = now(), state = 'up'")
    assert (await asyncio.to_thread(found, dsn))["workers hear"].level is Level.FAIL, "nobody is there to answer"
