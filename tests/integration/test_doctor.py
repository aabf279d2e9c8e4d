"""`turbo doctor` against ten planted faults: each is found, and nothing else is said to be wrong. Without a fault, nothing is.

The set-up is whole in every test: a migrated database, a live worker that has the real Claude CLI in its own environment
(the doctor's shell has not), an account with an env file, every kind of executor.
"""

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from tests.support import prefork
from tests.support.claude import KEY, the_cli
from tests.support.database import embedded_arguments, migrated_database
from tests.support.pgbouncer import pgbouncer
from tests.support.prefork import TURBO
from tests.support.requirements import missing, require
from tests.support.shell import Done
from tests.support.waiting import until
from tests.support.workers import Bench, WorkerProcess
from turbo import embedded
from turbo.migrate import SCHEMA_VERSION, migrate

SYSTEM_PATH = "/usr/bin:/bin"
CLI = "claude-under-test"


@dataclass
class Host:
    """A host as it should be: `config` in worker.yaml, a worker on it when `start` was called."""

    bench: Bench
    home: Path
    config: dict[str, Any]
    env_file: Path

    @property
    def with_cli(self) -> str:
        """A PATH on which the Claude CLI is, under a name that nobody else has, and its node."""
        place = self.home / "bin"
        place.mkdir(exist_ok=True)
        if not (place / CLI).is_symlink():
            (place / CLI).symlink_to(Path(the_cli()).resolve())
        node = Path(shutil.which("node") or "/usr/bin/node").parent
        return f"{place}:{node}:{SYSTEM_PATH}"

    def start(self, dsn: str | None = None, path: str | None = None, **worker: object) -> WorkerProcess:
        """A worker with a bare environment, as launchd gives it."""
        config = {**self.config, "worker": self.config["worker"] | worker}
        environment = {
            "HOME": str(self.home),
            "PATH": path or self.with_cli,
            "TURBO_DSN": dsn or self.bench.dsn,
            "PYTHONPATH": str(self.home / "python"),
        }
        file = self.home / f"worker{len(self.bench.workers)}.yaml"
        file.write_text(yaml.safe_dump(config))
        log = file.with_suffix(".log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                [TURBO, "worker", "--config", file], env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        one = WorkerProcess(process, log, Path(config["worker"]["state_dir"]))
        self.bench.workers.append(one)
        return one

    def doctor(
        self,
        *arguments: str,
        dsn: str | None = None,
        listen_dsn: str | None = None,
        path: str = SYSTEM_PATH,
        wrapped: tuple[str, ...] = (),
        **config: object,
    ) -> Done:
        file = self.home / "doctor.yaml"
        file.write_text(yaml.safe_dump({**self.config, **config}))
        environment = {"HOME": str(self.home), "LANG": "C.UTF-8", "PATH": path, "TURBO_DSN": dsn or self.bench.dsn}
        if listen_dsn is not None:
            environment["TURBO_LISTEN_DSN"] = listen_dsn
        done = prefork.run_text([*wrapped, TURBO, "doctor", "--config", file, "--json", *arguments], env=environment)
        assert done.stderr == ""
        return Done(done.returncode, done.stdout)


@pytest.fixture
def host(bench: Bench) -> Host:
    home = bench.path / "home"
    (home / "python").mkdir(parents=True)
    (home / "python" / "mine.py").write_text("async def handler(task):\n    return 1\n")
    (home / "checkout").mkdir()
    env_file = home / "account.env"
    env_file.write_text("".join(f"{key}={value}\n" for key, value in KEY.items()))
    env_file.chmod(0o600)
    config = bench.config(slots=2, host="here", queues=["default"])
    config["metrics"] = {"port": embedded.free_port()}
    config["accounts"] = {"max": {"env_file": str(env_file)}}
    checkout = {"cwd": str(home / "checkout"), "exclusive_cwd": True}
    config["notify"] = {"desk": {"kind": "command", "command": ["true"]}}
    config["executors"] |= {
        "claude": {
            "kind": "claude",
            "account": "max",
            "command": [CLI],
            "env": {"CLAUDE_CONFIG_DIR": str(home / ".claude")},
            **checkout,
        },
        "mine": {"kind": "python", "handler": "mine:handler"},
    }
    config["routes"] |= {"default": "claude", "mine": "mine", "ledger": "ledger"}
    return Host(bench, home, config, env_file)


def wrong(done: Done) -> dict[str, dict[str, str]]:
    """The findings that are warnings or failures, by name."""
    found = {one["name"]: one for one in done.json["checks"]}
    assert len(found) == len(done.json["checks"]), "a line a check"
    bad = {name: one for name, one in found.items() if one["level"] in ("warn", "fail")}
    assert all(one["do"] for one in bad.values()), "what to do is said"
    assert done.code == (1 if any(one["level"] == "fail" for one in bad.values()) else 0)
    return bad


def only(done: Done, name: str, level: str, text: str) -> None:
    """The fault is found, and nothing else."""
    bad = wrong(done)
    assert {n: one["level"] for n, one in bad.items()} == {name: level}, json.dumps(done.json, indent=1)
    assert text in bad[name]["what"]


def looked_at(done: Done) -> set[str]:
    return {one["name"] for one in done.json["checks"] if one["level"] != "skip"}


# ── no fault ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_healthy_setup_has_no_warning_or_failure(host: Host) -> None:
    host.start().listening()
    done = host.doctor()
    assert wrong(done) == {}
    assert done.code == 0
    assert done.json["healthy"] is True
    assert looked_at(done) == {one["name"] for one in done.json["checks"]}, "every check was made"
    assert {
        "database",
        "notifications",
        "workers hear",
        "env file max",
        "executor claude",
        "executor mine",
    } <= looked_at(done)
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text().partition("## turbo doctor")[2]
    listed = {name.removesuffix(" …") for name in re.findall(r"^\| ([a-z ]+(?: …)?) \|", page, re.M)} - {"check"}
    made = {next((kind for kind in listed if f"{name} ".startswith(f"{kind} ")), name) for name in looked_at(done)}
    # A sandbox that root runs is warned of, and so none is here.
    assert made | {"sandbox"} == listed, "docs/cli.md lists every check, and no other"
    said = {one["name"]: one["what"] for one in done.json["checks"]}
    assert said["executor claude"].startswith("Claude CLI 2.")
    assert "1 live worker " in said["workers hear"]
    assert "is used by worker w-" in said["metrics port"]


def test_sandbox_is_tried(host: Host) -> None:
    require("bwrap")
    host.config["executors"]["boxed"] = {"kind": "command", "command": ["cat"], "sandbox": {}}
    host.config["routes"]["boxed"] = "boxed"
    host.start().listening()
    done = host.doctor()
    if os.geteuid() == 0:
        only(done, "sandbox boxed", "warn", "no network; root runs it")
    assert "sandbox boxed" in looked_at(done)


# ── the ten ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_pooler_in_transaction_mode_fails(host: Host) -> None:
    host.start().listening()
    with pgbouncer(host.bench.dsn, "transaction") as through:
        only(host.doctor(dsn=through.dsn), "notifications", "fail", "pooler in transaction mode")
    with pgbouncer(host.bench.dsn, "session") as through:
        assert wrong(host.doctor(dsn=through.dsn)) == {}, "one in session mode is no fault"


def test_listen_dsn_is_judged(host: Host) -> None:
    host.start().listening()
    with pgbouncer(host.bench.dsn, "transaction") as through, migrated_database() as other:
        done = host.doctor(dsn=through.dsn, listen_dsn=host.bench.dsn)
        assert wrong(done) == {}
        (finding,) = [check for check in done.json["checks"] if check["name"] == "listen_dsn"]
        assert finding["what"] == (
            "dsn is a pooler in transaction mode, listen_dsn PostgreSQL itself; both lead to one database"
        )
        only(host.doctor(listen_dsn=through.dsn), "listen_dsn", "fail", "a pooler in transaction mode, too")
        only(host.doctor(dsn=through.dsn, listen_dsn=other), "listen_dsn", "fail", "two servers or two databases")


@contextlib.contextmanager
def standby_of(primary: embedded.Server) -> Iterator[embedded.Server]:
    home = Path(tempfile.mkdtemp(prefix="turbo-pg-standby-"))
    home.chmod(0o755)
    data = home / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        user = pwd.getpwnam(embedded.SERVER_USER)
        os.chown(data, user.pw_uid, user.pw_gid)
    server: embedded.Server | None = None
    try:
        primary.run("pg_basebackup", "-D", str(data), "-d", primary.dsn, "-R", "-c", "fast", "-X", "stream")
        server = embedded.start(data, **embedded_arguments())  # type: ignore[arg-type]
        yield server
    finally:
        if server is not None:
            server.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


def test_read_only_standby_fails(host: Host) -> None:
    with embedded.temporary(**embedded_arguments()) as primary:  # type: ignore[arg-type]
        migrate(primary.dsn)
        with standby_of(primary) as standby:
            config: dict[str, Any] = {"metrics": {"port": 0}, "executors": {"noop": host.config["executors"]["noop"]}}
            config["routes"] = {"default": "noop"}
            only(host.doctor(dsn=standby.dsn, **config), "writable", "fail", "read-only standby")
            bad = wrong(host.doctor(dsn=primary.dsn, **config))
            assert set(bad) == {"standbys"}, "the primary: its standby is not synchronous"
            both = f"postgresql://postgres@127.0.0.1:{standby.port},127.0.0.1:{primary.port}/postgres"
            assert set(wrong(host.doctor(dsn=both, **config))) == {"standbys"}, (
                "of both hosts, the primary is looked at"
            )


def without_claude(host: Host) -> dict[str, Any]:
    """No worker runs in this database, so the shell's environment counts, which has no CLI."""
    executors = {k: v for k, v in host.config["executors"].items() if k in ("noop", "ledger")}
    return {"executors": executors, "routes": {"default": "noop", "ledger": "ledger"}}


def test_unmigrated_database_fails(host: Host, empty_dsn: str) -> None:
    done = host.doctor(dsn=empty_dsn, **without_claude(host))
    only(done, "schema", "fail", "no turbo schema")
    assert "turbo migrate" in wrong(done)["schema"]["do"]


def test_schema_that_is_too_new_fails(host: Host) -> None:
    host.start().listening()
    newer = "insert into turbo_migrations (version, name, checksum, turbo_version) values (%s, 'later', '', '9')"
    host.bench.sql(newer, SCHEMA_VERSION + 1)
    only(host.doctor(), "schema", "warn", "newer than this turbo")
    host.bench.sql(newer, SCHEMA_VERSION + 2)
    done = host.doctor()
    only(done, "schema", "fail", "too new")
    assert wrong(done)["schema"]["do"] == "upgrade turbo on this host"


def test_env_file_readable_by_others_fails(host: Host) -> None:
    host.start().listening()
    host.env_file.chmod(0o644)
    done = host.doctor()
    only(done, "env file max", "fail", "mode 0644")
    assert wrong(done)["env file max"]["do"].startswith("chmod 600 ")
    assert KEY["ANTHROPIC_API_KEY"] not in done.out


def test_cli_missing_from_the_worker_path_fails(host: Host) -> None:
    host.start(path=SYSTEM_PATH).listening()
    until(lambda: host.bench.sql("select 1 from agent_workers where problems <> '[]'"), what="a beat with its problem")
    done = host.doctor(path=host.with_cli)  # the shell has it
    assert {name: one["level"] for name, one in wrong(done).items()} == {
        "executor claude": "fail",
        "worker problems": "warn",
    }
    assert "it is not on the PATH" in wrong(done)["executor claude"]["what"]
    assert "in the environment of worker w-" in wrong(done)["executor claude"]["what"]


def test_long_open_transaction_is_reported(host: Host) -> None:
    host.start().listening()
    with psycopg.connect(host.bench.dsn, application_name="pg_dump") as held:
        held.execute("set transaction isolation level repeatable read")
        held.execute("select count(*) from agent_tasks")
        done = host.doctor("--old-transaction", "0.001")
        only(done, "transactions", "warn", "pg_dump, idle in transaction")
        assert f"pg_terminate_backend({held.info.backend_pid})" in wrong(done)["transactions"]["do"]
        assert wrong(host.doctor()) == {}, "it is not old yet"


FULL = """
mount -t tmpfs -o size=256k,mode=0700 tmpfs "$1" || exit 77
head -c 1000000 /dev/zero > "$1/fill" 2>/dev/null
shift; exec "$@"
"""


def test_full_state_directory_fails(host: Host) -> None:
    """In a mount namespace of the doctor's own: nothing is left mounted."""
    host.start().listening()
    own = ("unshare", "--mount") if os.geteuid() == 0 else ("unshare", "--map-root-user", "--mount")
    done = host.doctor(wrapped=(*own, "sh", "-c", FULL, "sh", host.config["worker"]["state_dir"]))
    if done.code == 77:
        missing("no tmpfs can be mounted here")
    only(done, "state directory", "fail", "No space left on device")


def test_deaf_listener_is_found_from_another_host(host: Host) -> None:
    host.start().listening()
    with pgbouncer(host.bench.dsn, "transaction") as through:
        away = {"host": "elsewhere", "name": "deaf", "state_dir": str(host.home / "elsewhere")}
        host.config["metrics"] = {"port": 0}
        worker = host.start(dsn=through.dsn, **away)
        worker.said("notifications do not arrive")
        done = host.doctor()
        only(done, "workers hear", "fail", f"{worker.worker_id} on elsewhere")
        assert "w-" not in wrong(done)["workers hear"]["what"], "the other one hears"


def test_foreign_trigger_is_reported(host: Host) -> None:
    host.start().listening()
    host.bench.sql("create function theirs() returns trigger language plpgsql as 'begin return new; end'")
    host.bench.sql("create trigger audit before update on agent_tasks for each row execute function theirs()")
    done = host.doctor()
    only(done, "other triggers", "warn", "audit (public.theirs)")
    host.bench.sql("alter table agent_tasks disable trigger audit")
    assert wrong(host.doctor()) == {}
