"""`run_as`: programs of another user, started by a root worker and by one that may sudo.

What the user gets and what it cannot reach; that its programs end with all their descendants, however their run ends.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import yaml
from psycopg import conninfo

from tests.support import messages_api, users
from tests.support.claude import KEY, bash, the_cli
from tests.support.claude_asking import calls, question
from tests.support.configs import config_of
from tests.support.messages_api import MessagesApi
from tests.support.requirements import missing
from tests.support.users import Cast, User
from tests.support.waiting import gone, until
from tests.support.workers import Bench, WorkerProcess
from turbo.config.worker import ConfigError, WorkerConfig
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.registry import build_executors
from turbo.host.state_dir import StateDir
from turbo.process.identity import Identity, IdentityRefused, identity_of
from turbo.process.journal import Journal
from turbo.workspaces import files
from turbo.workspaces.area import WorkspaceView, no_lock
from turbo.workspaces.sweep import DAY, WorkspaceRetention
from turbo.workspaces.worktrees import Worktrees, WorktreeSettings

PROGRAM = r"""
case $1 in
who)
    id -u; id -G; pwd; cat >task; ls; umask
    tr '\n\0' ' \n' </proc/self/environ | cut -d= -f1 | sort | tr '\n' ' '; echo
    echo "$HOME|$USER|$LOGNAME|$TOKEN"
    { echo opened >/dev/stdout; } 2>/dev/null
    exit 0
    ;;
attack)
    set -- $2
    worker=$1; state=$2; shift 2
    for path in /proc/$worker/environ /proc/$PPID/environ /proc/$worker/mem "$@"; do
        if [ -d "$path" ]; then ls "$path"; else head -c 1 "$path"; fi >/dev/null 2>&1 && echo "read $path"
        [ -w "$path" ] && echo "may write $path"
    done
    ls "$state" >/dev/null 2>&1 && echo "listed $state"
    kill -0 "$worker" 2>/dev/null && echo "may signal $worker"
    touch "$state/workers/x" 2>/dev/null && echo "wrote"
    tr '\0' '\n' </proc/self/environ | grep -E '^(TURBO_DSN|PG|PASSFILE)' && echo "has the dsn"
    echo "tried $#"
    ;;
linger)
    sleep 1000 &
    setsid sleep 1000 &
    (setsid sh -c 'setsid sleep 1000 >/dev/null 2>&1 & exit 0' &)
    [ "$2" = stopped ] && kill -STOP $$
    [ "$2" = leaving ] && exit 0
    sleep 1000
    ;;
esac
"""


@dataclass
class Stage:
    """A worker of `cast.worker` on a bench, whose executor runs PROGRAM as `cast.agents`."""

    cast: Cast
    bench: Bench
    dsn: str
    started: list[tuple["subprocess.Popen[bytes]", WorkerProcess]] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.cast.worker.home / "state"

    def config(self, **executor: object) -> dict[str, Any]:
        program = self.cast.agents.write("program.sh", PROGRAM)
        command = ["/bin/sh", str(program), "{input[do]}", "{input[how]}"]
        section = {"kind": "command", "command": command, "run_as": self.cast.agents.name, "grace_seconds": 1}
        config = self.bench.config(state_dir=str(self.state), drain_seconds=0)
        return config | {"executors": {"x": section | executor}, "routes": {"default": "x"}}

    def start(self, config: dict[str, Any] | None = None) -> WorkerProcess:
        file = self.cast.worker.write(f"worker{len(self.started)}.yaml", yaml.safe_dump(config or self.config()))
        log = self.cast.worker.home / f"worker{len(self.started)}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-c", "from turbo.cli.main import main; main()", "worker", "--config", str(file)]
            process = self.cast.worker.popen(command, {"TURBO_DSN": self.dsn, "PGAPPNAME": "secret"}, out)
        worker = WorkerProcess(process, log, self.state)  # type: ignore[arg-type]
        self.started.append((process, worker))
        self.bench.workers.append(worker)
        return worker.listening()

    def kin(self) -> list[psutil.Process]:
        """The `sleep`s of the agents' user."""
        return [process for process in self.cast.agents.processes() if name_of(process) == "sleep"]

    def lingering(self, task: str, how: str = "running") -> list[psutil.Process]:
        count = 3 if how in ("leaving", "stopped") else 4
        self.bench.insert(task, {"do": "linger", "how": how}, timeout_seconds=600)
        return until(lambda: len(self.kin()) == count and self.kin(), 30, self.bench.logs)


def name_of(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(params=["root", "sudo"], scope="module")
def cast(request: pytest.FixtureRequest) -> Iterator[Cast]:
    with users.cast(request.param) as one:
        yield one


@pytest.fixture
def stage(cast: Cast, bench: Bench) -> Iterator[Stage]:
    login = f"worker_{os.getpid()}_{cast.worker.name.replace('-', '_')}"
    with psycopg.connect(bench.dsn, autocommit=True) as db:
        db.execute(f"drop role if exists {login}")
        db.execute(f"create role {login} login superuser password 'secret-of-the-worker'")
    dsn = conninfo.make_conninfo(bench.dsn, user=login, password="secret-of-the-worker")
    try:
        yield Stage(cast, bench, dsn)
    finally:
        bench.close()
        with psycopg.connect(bench.dsn, autocommit=True) as db:
            db.execute(f"drop role {login}")


def output(row: dict[str, Any]) -> list[str]:
    return str(row["output_data"]["output"]).splitlines()


def test_program_has_the_users_rights_and_no_others(stage: Stage) -> None:
    agents, worker_user = stage.cast.agents, stage.cast.worker
    token = worker_user.write("account.env", 'TOKEN="it\'s $HOME\\n\\\\ secret"\n', 0o600)
    pgpass = worker_user.write(".pgpass", "*:*:*:*:x\n", 0o600)
    config = stage.config(account="login")
    config["accounts"] = {"login": {"env_file": str(token)}}
    worker = stage.start(config)
    stage.bench.insert("who", {"do": "who", "how": ""})
    uid, groups, cwd, files, umask, names, home, *rest = output(stage.bench.wait("who"))
    assert uid == str(agents.uid)
    assert set(groups.split()) == {str(agents.gid), "60"}, "its primary and supplementary groups"
    assert (Path(cwd).name, Path(cwd).is_relative_to(agents.home), files) == ("who", True, "task")
    assert Path(cwd).stat().st_mode & 0o077 == 0
    known = {
        "HOME",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TOKEN",
        "TURBO_ATTEMPT",
        "TURBO_RUN",
        "TURBO_TASK_ID",
        "TURBO_TASK_TYPE",
        "USER",
    }
    assert set(names.split()) <= known | {"LANG", "LC_CTYPE", "TERM", "TZ", "PWD", "OLDPWD", "SHLVL", "_"}, (
        "no SUDO_*, and nothing of the worker's"
    )
    # A pipe that the worker made belongs to the worker, who is not root and cannot give it away.
    opened = ["opened"] if stage.cast.root else []
    assert [home, *rest] == [f"{agents.home}|{agents.name}|{agents.name}|it's $HOME", "\\ secret", *opened]
    assert umask

    log = stage.bench.row("who")["output_data"]["log"]
    spool = stage.state / "workers" / worker.worker_id / "spool"
    targets = [
        stage.state,
        log,
        spool,
        token,
        pgpass,
        stage.state / "tasks",
        stage.state / "workers" / worker.worker_id / "journal",
    ]
    reached = " ".join(map(str, targets))
    stage.bench.insert("attack", {"do": "attack", "how": f"{worker.pid} {stage.state} {reached}"})
    assert output(stage.bench.wait("attack")) == [f"tried {len(targets)}"]
    assert not {p.name for p in agents.home.iterdir()} - {"program.sh", ".turbo", ".bashrc", ".profile", ".bash_logout"}


def test_program_of_the_workers_user_reaches_all(stage: Stage) -> None:
    """The control, and what the threat model says of the default."""
    user = stage.cast.worker
    token = user.write("account.env", "TOKEN=x\n", 0o600)
    program = user.write("program.sh", PROGRAM)
    config = stage.config(command=["/bin/sh", str(program), "{input[do]}", "{input[how]}"])
    del config["executors"]["x"]["run_as"]
    worker = stage.start(config)
    home = stage.state / "workers" / worker.worker_id
    stage.bench.insert("attack", {"do": "attack", "how": f"{worker.pid} {stage.state} {token} {home}"})
    reached = output(stage.bench.wait("attack"))
    for path in (token, home):
        assert {f"read {path}", f"may write {path}"} <= set(reached)
    assert {f"listed {stage.state}", f"may signal {worker.pid}", "wrote"} <= set(reached)
    (stage.state / "workers" / "x").unlink()


def test_every_end_of_a_run_takes_its_descendants_along(stage: Stage) -> None:
    bench = stage.bench
    worker = stage.start()
    bench.insert("leaving", {"do": "linger", "how": "leaving"})
    bench.wait("leaving")
    assert stage.kin() == []
    first = stage.lingering("first")
    stage.bench.insert("short", {"do": "linger", "how": "running"}, timeout_seconds=1)
    bench.wait("short", "failed")
    assert stage.kin() == first, "nobody else's"
    stage.bench.sql("update agent_tasks set status = 'cancelled' where task_id = 'first'")
    bench.wait("first", "cancelled")
    assert stage.kin() == []
    stage.lingering("stopped", "stopped")
    stage.bench.sql("update agent_tasks set status = 'cancelled' where task_id = 'stopped'")
    bench.wait("stopped", "cancelled")
    assert stage.kin() == []
    stage.lingering("drained")
    assert worker.stop() == 0, worker.log
    assert stage.kin() == []
    assert not list(stage.state.glob("workers/*/journal/*.json"))
    assert "still running after KILL" not in worker.log


@pytest.mark.parametrize("watched", [True, False], ids=["watcher", "next worker"])
def test_killed_worker_leaves_no_program(stage: Stage, watched: bool) -> None:
    config = stage.config()
    worker = stage.start(config)
    stage.lingering("t")
    if not watched:
        (watcher,) = [
            p for p in psutil.Process(worker.pid).children() if "turbo.process.reaper" in " ".join(p.cmdline())
        ]
        watcher.kill()
    worker.kill()
    until(lambda: gone(worker.pid))
    if watched:
        until(
            lambda: not stage.kin(),
            20,
            lambda: "\n".join(str(f.read_text()) for f in stage.state.glob("workers/*/watcher.log")),
        )
        return
    assert len(stage.kin()) == 4, "they live until somebody ends them"
    config["executors"]["y"] = {"kind": "python", "handler": "turbo.testing:noop"}
    config["routes"] = {"default": "y"}
    next_worker = stage.start(config)
    assert stage.kin() == [], next_worker.log
    assert "processes that dead worker" in next_worker.log


GIT = "export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b"

RETENTION = """
import asyncio, sys, time
from pathlib import Path
from turbo.executors import foreign
from turbo.process.identity import identity_of
from turbo.process.journal import Journal
from turbo.workspaces.sweep import WorkspaceRetention
state = Path(sys.argv[1])
sweep = WorkspaceRetention(state / "workspaces", state / "locks", Journal(state / "journal"), {})
print(asyncio.run(sweep.once(time.time() + 30 * 86400)))
foreign.remove(state / "tasks" / "plain", state / "tasks" / "edit")
print("plain" in identity_of(sys.argv[2]).run('ls -- "$1"', sys.argv[3]).split())
foreign.remove(state / "tasks" / "plain", state / "tasks" / "plain")
"""


def test_worktree_belongs_to_the_user_and_is_measured(stage: Stage) -> None:
    agents, worker_user, bench = stage.cast.agents, stage.cast.worker, stage.bench
    agents.run(f"{GIT}; git init -q -b main project; cd project; echo 1 >readme; git add .; git commit -qm first")
    # A filter that tells who runs it: git asks it for what the working copy has.
    agents.run(
        f"cd project; git config filter.spy.clean 'id -u >>{agents.home}/spy; cat'; echo '*.txt filter=spy' >.git/info/attributes"
    )
    work = agents.write(
        "work.sh", f"{GIT}; set -e; echo 2 >>readme; git commit -qam second; echo 3 >new.txt; test -e made\n"
    )
    config = stage.config(
        command=["/bin/sh", str(work)],
        workspace={
            "kind": "worktree",
            "repo": str(agents.home / "project"),
            "setup": ["touch", "made"],
            "sweep_unmerged": True,
        },
    )
    config["executors"]["plain"] = stage.config()["executors"]["x"]
    config["routes"]["plain"] = "plain"
    worker = stage.start(config)
    bench.insert("edit")
    bench.insert("plain", {"do": "who", "how": ""}, task_type="plain")
    space = bench.wait("edit")["output_data"]["workspace"]
    assert "error" not in space, space
    assert (space["commits"], space["files_changed"], space["insertions"], space["uncommitted"]) == (1, 2, 2, 1)
    tree = Path(space["path"])
    assert tree.is_relative_to(agents.home)
    assert {path.lstat().st_uid for path in [tree, *tree.rglob("*"), *(agents.home / "project").rglob("*")]} == {
        agents.uid
    }
    assert set((agents.home / "spy").read_text().split()) == {str(agents.uid)}, (
        "git's filters never had another's rights"
    )
    bench.wait("plain")

    command = [
        sys.executable,
        "-c",
        "from turbo.cli.main import main; main()",
        "diff",
        "edit",
        "--state-dir",
        str(stage.state),
    ]
    diff, _ = worker_user.popen(command, {"TURBO_DSN": stage.dsn}).communicate()
    assert b"+2" in diff, diff
    assert b"+3" in diff, diff
    assert worker.stop() == 0
    (place,) = (path.parent for path in (agents.home / ".turbo").glob("*/plain"))
    swept, _ = worker_user.popen(
        [sys.executable, "-c", RETENTION, str(stage.state), agents.name, str(place)], {}
    ).communicate()
    assert swept == b"['edit']\nTrue\n", "a directory that names another one's is not believed"
    left = {path.name for path in (agents.home / ".turbo").glob("*/*")}
    assert not left & {"edit", "plain"}, left
    assert set((agents.home / "spy").read_text().split()) == {str(agents.uid)}


@pytest.mark.parametrize("first", ["own", "agents"])
async def test_changed_run_as_touches_no_work(first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
    with users.a_user("changes") as agents:
        agents.run(f"{GIT}; git init -q -b main project; cd project; echo 1 >readme; git add .; git commit -qm first")
        state, journal = StateDir(tmp_path / "state"), Journal(tmp_path / "journal")
        identity = identity_of(agents.name)
        assert identity is not None

        async def run(user: Identity | None) -> Outcome:
            settings = WorktreeSettings(agents.home / "project")
            place = {"root": state.workspaces, "locks": state.locks, "host": "here", "journal": journal}
            area = Worktrees("x", settings, exclusive=no_lock, run_as=user, **place)  # type: ignore[arg-type]
            home = {} if user is None else user.own({})

            async def program(tree: Path, _workspace: object) -> Outcome:
                (tree / "work").write_text("precious")
                if user is not None:
                    os.chown(tree / "work", user.uid, user.gid)
                return Outcome.succeeded()

            task = Task(task_id="t", task_type="x", task_description="x", timeout_seconds=60.0)
            return await area.run(Run(task, tmp_path / "work", tmp_path / "log"), os.environ | home, program)

        before, after = (None, identity) if first == "own" else (identity, None)
        space = (await run(before)).extra["workspace"]
        assert isinstance(space, dict)
        (record,) = state.workspaces.glob("*/t/record.json")
        written = record.read_text()
        refused = await run(after)
        whose = "the worker's own user" if first == "own" else f"user {agents.name}"
        assert refused.kind is OutcomeKind.FAILED
        assert f"belongs to {whose}, but run_as has been changed since: save what you want" in str(refused.error)
        assert record.read_text() == written
        assert (Path(space["path"]) / "work").read_text() == "precious"
        sweep = WorkspaceRetention(state.workspaces, state.locks, journal, {})
        assert await sweep.once(time.time() + 30 * DAY) == []
        continued = (await run(before)).extra["workspace"]
        assert isinstance(continued, dict)
        assert (continued["continued"], continued["uncommitted"]) == (True, 1)

        assert not await files.exists(identity, agents.home / "no" / "such")
        assert await files.exists(identity, agents.home / "project", directory=True)
        assert not await files.exists(identity, agents.home / "project" / "readme", directory=True)
        with pytest.raises(OSError, match="cannot look into it"):
            await files.exists(identity, state.root / "no" / "such")


COMMON = "$(git rev-parse --git-common-dir)"
IN_THE_WAY = {
    "info/exclude": f"mkdir -p {COMMON}/info; rm -f {COMMON}/info/exclude; mkfifo {COMMON}/info/exclude",
    "list1": "mkfifo ~/list1; git config --global core.excludesFile '~/list1'",
    "list2": f"mkfifo {COMMON}/../list2; git config core.excludesFile {COMMON}/../list2",
    "list3": "truncate -s 3G ~/list3; git config --file ~/more core.excludesFile '~/list3'; git config --global include.path more",
    "more4": "mkfifo ~/more4; git config --global includeIf.gitdir:/.path '~/more4'",
    "o5/info/alternates": "mkdir -p ~/o5/info; mkfifo ~/o5/info/alternates; "
    + r"""printf '"%s/\\1575"\n' "$HOME" >"""
    + f"{COMMON}/objects/info/alternates",
    ".config/git/ignore": "mkdir -p ~/.config/git; mkfifo ~/.config/git/ignore",
    ".ssh/known_hosts": "mkdir ~/.ssh; mkfifo ~/.ssh/known_hosts",
    ".ssh/config": "mkdir ~/.ssh; ln -s /dev/zero ~/.ssh/config; ln -s /dev/null ~/.ssh/known_hosts",
}


async def test_fifo_of_an_agents_user_holds_no_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the common directory, the user's lists and what its configuration names: named before the next task's git starts."""
    monkeypatch.setattr("turbo.workspaces.git.USUAL_SECONDS", 0.2)
    with users.a_user("fifo") as agents:
        agents.run(f"{GIT}; git init -q -b main project; cd project; echo 1 >readme; git add .; git commit -qm first")
        state, journal = StateDir(tmp_path / "state"), Journal(tmp_path / "journal")
        identity = identity_of(agents.name)
        assert identity is not None

        async def run(task_id: str, script: str) -> Outcome:
            place = {"root": state.workspaces, "locks": state.locks, "host": "here", "journal": journal}
            settings = WorktreeSettings(agents.home / "project")
            area = Worktrees("x", settings, exclusive=no_lock, run_as=identity, **place)  # type: ignore[arg-type]

            async def program(tree: Path, _: WorkspaceView | None) -> Outcome:
                await asyncio.to_thread(agents.run, f"cd {tree}; echo x >>readme; {script}")
                return Outcome.succeeded()

            task = Task(task_id=task_id, task_type="x", task_description="x", timeout_seconds=60.0)
            run = Run(task, tmp_path / "work", tmp_path / "log")
            return await area.run(run, {"PATH": os.environ["PATH"], "HOME": str(agents.home)}, program)

        for number, (name, script) in enumerate(IN_THE_WAY.items()):
            agents.run("cp -a project/.git saved; rm -rf .config; cp .gitconfig config 2>/dev/null || : >config")
            measured = (await run(f"t{number}", script)).extra["workspace"]
            if not name.startswith(".ssh"):  # nothing is fetched to measure
                assert f"{name} is a FIFO, a device, or larger than git should read" in str(measured["error"]), name  # type: ignore[index]
            refused = await run(f"u{number}", "true")
            assert refused.kind is OutcomeKind.UNAVAILABLE
            assert f"{name} is a FIFO" in str(refused.error), name
            agents.run("rm -rf project/.git .config .ssh; mv saved project/.git; mv config .gitconfig")
        assert (await run("last", "true")).kind is OutcomeKind.SUCCEEDED, "the control"


CLAUDE = """
import asyncio, json, sys
from pathlib import Path
from turbo.domain.question import Answered, AskPolicy
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.process.identity import checked_identity
from turbo.process.journal import Journal

async def main(here, user, cli, url):
    env = {"ANTHROPIC_BASE_URL": url, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_TELEMETRY": "1"}
    executor, asking = (
        ClaudeExecutor(
            "claude", [cli], journal=Journal(here / "journal"), env=env, env_file=here / "claude.env", model="sonnet",
            cli_max_retries=0, resume=True, allowed_tools=["Bash"], run_as=checked_identity(user), ask=ask,
        )
        for ask in (None, AskPolicy())
    )
    def run(**fields):
        task = Task(task_id="t", task_type="x", task_description="count the sheep", timeout_seconds=60.0, **fields)
        return Run(task, here / "tasks" / "t", here / "attempt.log")
    assert executor.missing() is None
    first = await executor.run(run())
    second = await executor.run(run(agent_session_id=first.session_id, retry_count=1))
    probe = await executor.probe()
    third = await asking.run(run())
    answer = Answered(third.asked.question, "Postgres")
    fourth = await asking.run(run(agent_session_id=third.session_id, answers=(answer,)))
    print(json.dumps([first.kind, second.kind, second.output, second.session_id == first.session_id, probe.kind,
                      third.kind, fourth.output, bool(await executor.version()), await executor.auth_status()]))

asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
"""


def test_claude_cli_works_and_resumes_as_the_user(cast: Cast) -> None:
    agents, worker = cast.agents, cast.worker
    cli = reachable_cli(agents)
    worker.write("claude.env", "".join(f"{key}={value}\n" for key, value in KEY.items()), 0o600)
    with MessagesApi(messages_api.text("seven")) as api:
        api.answer(
            bash('echo "it is $(id -u) in $HOME"; printf "Graze on clo%s." ver >CLAUDE.md'),
            messages_api.error(418, "api_error", "x"),
            messages_api.text("seven"),
            messages_api.text("ok"),
            calls(question("Which database?")),
            messages_api.text("eight"),
        )
        process = worker.popen([sys.executable, "-c", CLAUDE, str(worker.home), agents.name, str(cli), api.url], {})
        printed, _ = process.communicate(timeout=120)
    answers = printed.decode().splitlines()
    ended = ["failed", "succeeded", "seven", True, "succeeded", "asked", "eight", True, True]
    assert json.loads(answers[-1]) == ended, printed.decode()
    conversation = "".join(request.everything for request in api.requests)
    assert f"it is {agents.uid} in {agents.home}" in conversation
    assert "Graze on clover." in conversation, "the instructions are read, also where only the user can look"
    sessions = list((agents.home / ".claude" / "projects").rglob("*.jsonl"))
    assert sessions
    assert {path.stat().st_uid for path in sessions} == {agents.uid}
    assert not (worker.home / ".claude").exists()
    scratch = [path for path in Path("/tmp").glob("turbo-????????") if path.stat().st_uid == agents.uid]
    assert not scratch


def reachable_cli(user: User) -> Path:
    """The real CLI, or a copy of it that this user can run."""
    cli = Path(the_cli()).resolve()
    if user.may_read(cli):
        return cli
    return Path(shutil.copy(cli, user.home / "claude"))


REFUSED = {
    "nosuch": "this host has no user 'nosuch': create it (useradd --create-home nosuch)",
    "root": "root is root, who may do everything",
    "1001": "1001 is a number: write the user's name",
    "#0": "#0 is a number",
    "-u": "this host has no user '-u'",
    "": "this host has no user ''",
    "nobody": "nobody has no home directory that it can write to (/nonexistent)",
}


REFUSAL = """
import sys
from turbo.process.identity import IdentityRefused, checked_identity
try:
    checked_identity(sys.argv[1])
except IdentityRefused as error:
    print(error)
"""


def test_user_that_cannot_be_used_is_refused_at_once(cast: Cast, tmp_path: Path) -> None:
    if not cast.root:
        for user, reason in (("games", "password"), ("root", "root is root")):
            said, _ = cast.worker.popen([sys.executable, "-c", REFUSAL, user], {}).communicate()
            assert reason in said.decode(), user
            if user == "games":
                assert f"add this line with visudo: {cast.worker.name} ALL=(games) NOPASSWD: ALL" in said.decode()
        return
    for user, reason in REFUSED.items():
        with pytest.raises(ConfigError) as error:
            build_executors(configured(tmp_path, user), Journal(tmp_path))
        assert f"executors.x: run_as: {reason}" in str(error.value), user
    with pytest.raises(ValueError, match=r"run_as is for programs: a Python handler"):
        configured(tmp_path, "games", kind="python", handler="turbo.testing:noop", isolation="process")
    with pytest.raises(IdentityRefused, match="root is root"):
        identity_of("root")


def test_git_config_that_the_user_cannot_read_is_said(cast: Cast, dsn: str, tmp_path: Path) -> None:
    """At the start, by config check and by doctor: git itself would pass over it."""
    agents, worker = cast.agents, cast.worker
    agents.run(f"{GIT}; git init -q -b main project; cd project; git commit -q --allow-empty -m first")
    closed = worker.write("gitconfig", "[credential]\n", 0o600)
    section = {
        "kind": "command", "command": ["true"], "run_as": agents.name,
        "workspace": {"kind": "worktree", "repo": str(agents.home / "project"), "git_config": str(closed)},
    }  # fmt: skip
    config = {
        "worker": {"state_dir": str(worker.home / "state")},
        "metrics": {"port": 0},
        "executors": {"x": section},
        "routes": {"default": "x"},
    }
    file = worker.write("worker.yaml", yaml.safe_dump(config), 0o600)
    why = f"executors.x: run_as: {agents.name} cannot read {closed} (workspace.git_config)"
    for command, prefix in {
        ("worker", "--config"): f"{file}: ",
        ("config", "check"): f"{file}: warning: ",
        ("doctor", "--config"): "",
    }.items():
        arguments = ("-c", "from turbo.cli.main import main; main()", *command, str(file))
        said, _ = worker.popen([sys.executable, *arguments], {"TURBO_DSN": dsn}).communicate(timeout=60)
        assert prefix + why.removeprefix("" if prefix else "executors.x: ") in said.decode(), command
    opened = agents.write("gitconfig", "[credential]\n")
    section["workspace"]["git_config"] = str(opened)  # type: ignore[index]
    file = worker.write("worker.yaml", yaml.safe_dump(config), 0o600)
    arguments = ("-c", "from turbo.cli.main import main; main()", "config", "check", str(file))
    said, _ = worker.popen([sys.executable, *arguments], {"TURBO_DSN": dsn}).communicate(timeout=60)
    assert b"warning" not in said, "control"


def test_advice_about_a_home_fits_the_section(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        missing("only root starts programs as nobody")
    repo = tmp_path / "repo"
    workspace = {"kind": "worktree", "repo": str(repo)}
    for more, advised in ({}, True), ({"workspace": workspace}, False):
        with pytest.raises(ConfigError) as error:
            build_executors(configured(tmp_path, "nobody", kind="command", command=["true"], **more), Journal(tmp_path))
        assert "has no home directory" in str(error.value)
        assert ("set the executor's cwd" in str(error.value)) is advised


def configured(path: Path, user: str, **section: object) -> WorkerConfig:
    executor = section or {"kind": "command", "command": ["true"]}
    return config_of(path, executors={"x": executor | {"run_as": user}}, routes={"default": "x"})


SLOW_SCRIPT = """
import sys
from turbo.process import identity
identity.SCRIPT_SECONDS = 1.0
try:
    identity.checked_identity(sys.argv[1]).script("sleep 4711; true")
except OSError as error:
    print(error)
"""


def test_script_past_its_time_leaves_no_process(cast: Cast) -> None:
    agents, worker = cast.agents, cast.worker
    said, _ = worker.popen([sys.executable, "-c", SLOW_SCRIPT, agents.name], {}).communicate(timeout=60)
    assert b"took longer than 1 s" in said
    until(lambda: not [p for p in psutil.process_iter(["uids", "cmdline"])
                       if p.info["uids"].real == agents.uid and "4711" in " ".join(p.info["cmdline"] or [])])  # fmt: skip
