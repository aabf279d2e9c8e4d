"""`sandbox:` on Linux, with the real bubblewrap: a hostile program in it and, as the control, without it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.support import claude as claude_cli
from tests.support import messages_api, users
from tests.support.repositories import git, repository
from tests.support.requirements import missing, require
from tests.support.waiting import until, until_async
from tests.support.workers import Bench
from turbo.config.worker import load_worker_config
from turbo.domain.run import StopSignal
from turbo.domain.states import StopCause
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.executors.sandboxes import build_sandboxes
from turbo.process.identity import identity_of
from turbo.process.journal import Journal
from turbo.process.reaper import end_leftovers
from turbo.process.running import Ending, ProcessResult, ProcessSpec, SpawnFailed, run_process
from turbo.process.sandbox import Sandbox, SandboxRules

HOSTILE = Path(__file__).parents[1] / "support" / "programs" / "hostile.py"
DAEMON = "left-by-a-hostile-program"

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap is for Linux"),
    pytest.mark.xdist_group("sandbox"),  # a test of another process would see these daemons
]


@pytest.fixture(scope="module", autouse=True)
def bwrap() -> str:
    found = require("bwrap")
    if (why := Sandbox(SandboxRules()).unavailable()) is not None:
        missing(why)
    return found


@dataclass
class Ground:
    """A host in small: a home, the state directory of a worker, a repository with two worktrees, and what a program must not reach."""

    base: Path
    victim: "subprocess.Popen[bytes]"
    stops: list[StopSignal] = field(default_factory=list)

    @property
    def state(self) -> Path:
        return self.base / "state"

    @property
    def tree(self) -> Path:
        return self.state / "workspaces" / "repo" / "mine" / "tree"

    def config(self, **sandbox: object) -> Path:
        section = {
            "kind": "command",
            "command": ["true"],
            "sandbox": {"deny_read": [str(self.base / "denied")], **sandbox},
        }
        file = self.base / "worker.yaml"
        account = {"alpha": {"env_file": str(self.base / "alpha.env")}}
        tree: dict[str, Any] = {
            "worker": {"state_dir": str(self.state)},
            "accounts": account,
            "executors": {"x": section},
        }
        file.write_text(yaml.safe_dump(tree))
        return file

    def sandbox(self, **settings: object) -> Sandbox:
        return build_sandboxes(load_worker_config(self.config(**settings)))["x"]

    def journal(self, sandbox: Sandbox | None) -> Journal:
        return Journal(self.state / "workers" / "w" / "journal", sandbox)

    async def run(
        self, *argv: str, sandbox: Sandbox | None = None, stop: StopSignal | None = None, **more: Any
    ) -> ProcessResult:
        variables = {"PATH": os.environ["PATH"], "HOME": str(self.base / "home")}
        spec = ProcessSpec(
            argv=argv,
            env=variables,
            log_path=self.base / "log",
            **{"cwd": self.tree, "wall_seconds": 60.0, **more},
        )
        return await run_process(spec, stop=stop or StopSignal(), journal=self.journal(sandbox))


@contextmanager
def a_listener(family: socket.AddressFamily, address: Any) -> Iterator[Any]:
    with socket.socket(family) as one:
        one.bind(address)
        one.listen(8)
        yield one.getsockname()


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    # Not below /tmp, which every sandbox has for itself.
    base = Path(tempfile.mkdtemp(prefix="turbo-sandbox-", dir=Path("~").expanduser()))
    victim = subprocess.Popen(["sleep", "1000"], env={"SECRET": "s3cret", "PATH": os.defpath})
    one = Ground(base, victim)
    try:
        for name in (
            "home/.ssh/id",
            "denied/names",
            "outside/file",
            "state/tasks/other/notes",
            "state/logs/x",
            "alpha.env",
        ):
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_text("secret\n")
        (base / "alpha.env").chmod(0o600)
        (base / "home" / ".profile").write_text("# a login runs this\n")
        repo = repository(base / "repo", a="1\n")
        for name in ("mine", "other"):
            git(repo, "worktree", "add", "-b", name, str(base / "state" / "workspaces" / "repo" / name / "tree"))
        yield one
    finally:
        victim.kill()
        victim.wait()
        for daemon in daemons():
            daemon.kill()
        shutil.rmtree(base)


def daemons() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if DAEMON in (one.info["cmdline"] or [])[-1:]]


def targets(ground: Ground, tcp: int, unix: str) -> dict[str, tuple[str, str]]:
    repo, base, victim = ground.base / "repo" / ".git", ground.base, ground.victim.pid
    own = repo / "worktrees" / "mine".replace("mine", Path(git(ground.tree, "rev-parse", "--git-dir").strip()).name)
    return {
        "write outside": ("write", f"{base}/outside/file"),
        "write into the home": ("write", f"{base}/home/.profile"),
        "read what is denied": ("read", f"{base}/denied/names"),
        "list what is denied": ("read", f"{base}/denied"),
        "read a key of ssh": ("read", f"{base}/home/.ssh/id"),
        "read the state directory": ("read", f"{base}/state/logs/x"),
        "read another task's directory": ("read", f"{base}/state/tasks/other/notes"),
        "read another task's worktree": ("read", f"{base}/state/workspaces/repo/other/tree/a"),
        "read an account's env file": ("read", f"{base}/alpha.env"),
        "read the configuration": ("read", f"{base}/worker.yaml"),
        "write a hook": ("write", f"{repo}/hooks/pre-commit"),
        "rename the hooks": ("rename", f"{repo}/hooks"),
        "write git's configuration": ("rewrite", f"{repo}/config"),
        "point git elsewhere": ("write", f"{repo}/commondir"),
        "point its worktree elsewhere": ("rewrite", f"{own}/commondir"),
        "swap its .git file": ("rename", f"{ground.tree}/.git"),
        "move another task's HEAD": ("rewrite", f"{repo}/HEAD"),
        "connect to a service of this host": ("connect", f"127.0.0.1:{tcp}"),
        "connect to a socket in /tmp": ("connect_unix", unix),
        "signal the worker": ("signal", f"{victim}"),
        "trace the worker": ("trace", f"{victim}"),
        "read the worker's environment": ("read", f"/proc/{victim}/environ"),
        "write a setting of the kernel": ("rewrite", "/proc/sys/kernel/core_pattern"),
        "remount / for writing": ("remount", "/"),
        "leave a daemon": ("leave", DAEMON),
    }


@pytest.fixture(scope="module")
def done(ground: Ground) -> dict[str, set[str]]:
    """What the hostile program could do, in the sandbox and without it."""
    found = {}
    commondir = ground.base / "repo" / ".git" / "commondir"
    with a_listener(socket.AF_INET, ("127.0.0.1", 0)) as (_, tcp), tempfile.TemporaryDirectory(dir="/tmp") as place:
        unix = f"{place}/socket"
        with a_listener(socket.AF_UNIX, unix):
            wanted = targets(ground, tcp, unix)
            for name, sandbox in (("inside", ground.sandbox()), ("without", None)):
                words = (sys.executable, str(HOSTILE))
                result = asyncio.run(ground.run(*words, sandbox=sandbox, stdin=json.dumps(wanted).encode()))
                assert result.returncode == 0, result.stderr_tail
                found[name] = set(result.stdout.decode().splitlines())
                if left := daemons():
                    found[name].add("a daemon is left")
                    left[0].kill()
                    until(lambda: not daemons())
                commondir.unlink(missing_ok=True)
    return found


def test_hostile_program_does_nothing_of_it_inside(done: dict[str, set[str]]) -> None:
    assert done["inside"] == {"leave a daemon"}, "it may start one, which ends with the sandbox"


def test_without_a_sandbox_each_attempt_succeeds(done: dict[str, set[str]], ground: Ground) -> None:
    tried = set(targets(ground, 0, "")) | {"a daemon is left"}
    for_root = {"trace the worker", "write a setting of the kernel", "remount / for writing"}
    assert done["without"] - for_root == tried - for_root
    if os.geteuid() == 0:
        assert {"trace the worker", "write a setting of the kernel"} <= done["without"]


async def test_commit_works_in_a_worktree_inside(ground: Ground) -> None:
    commit = "echo 2 >a && git -c user.name=a -c user.email=a@b commit -qam inside && git log -1 --format=%s"
    script = f"{commit} && touch /tmp/turbo-made-inside && cat"
    result = await ground.run("sh", "-c", script, sandbox=ground.sandbox(), stdin=b"input")
    assert (result.returncode, result.stdout) == (0, b"inside\ninput"), result.stderr_tail
    assert git(ground.base / "repo", "log", "-1", "--format=%s", "mine").strip() == "inside"
    assert not Path("/tmp/turbo-made-inside").exists()


async def test_opened_places_and_network_are_open(ground: Ground) -> None:
    (ground.base / "cache").mkdir()
    sandbox = ground.sandbox(network=True, write=[str(ground.base / "cache")], read=[str(ground.base / "home/.ssh")])
    with a_listener(socket.AF_INET, ("127.0.0.1", 0)) as (_, tcp):
        wanted = {
            "write": ("write", f"{ground.base}/cache/x"),
            "read": ("read", f"{ground.base}/home/.ssh/id"),
            "connect": ("connect", f"127.0.0.1:{tcp}"),
            "write what is readable": ("write", f"{ground.base}/home/.ssh/id"),
        }
        result = await ground.run(sys.executable, str(HOSTILE), sandbox=sandbox, stdin=json.dumps(wanted).encode())
    assert result.stdout.decode().split("\n") == ["write", "read", "connect", ""]


async def test_program_has_its_grace_and_its_exit_code(ground: Ground) -> None:
    stop = StopSignal()
    script = "trap 'echo cleaned up; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    running = asyncio.ensure_future(ground.run("sh", "-c", script, sandbox=ground.sandbox(), stop=stop))
    await until_async(lambda: "ready" in (ground.base / "log").read_text() if (ground.base / "log").exists() else False)
    stop.set(StopCause.CANCEL)
    result = await running
    assert (result.ended_by, result.returncode, result.stdout) == (Ending.STOPPED, 7, b"ready\ncleaned up\n")
    assert result.survivors == ()


async def test_a_program_that_ignores_term_ends_with_all_it_started(ground: Ground) -> None:
    stop = StopSignal()
    script = (
        f"trap '' TERM; setsid sh -c 'while :; do sleep 0.1; done' {DAEMON} & echo ready; while :; do sleep 0.1; done"
    )
    running = asyncio.ensure_future(
        ground.run("sh", "-c", script, sandbox=ground.sandbox(), stop=stop, grace_seconds=0.2)
    )
    await until_async(lambda: len(daemons()) == 1)
    stop.set(StopCause.CANCEL)
    result = await running
    assert result.ended_by is Ending.STOPPED
    assert daemons() == []


async def test_next_worker_ends_what_a_killed_one_left(ground: Ground) -> None:
    """As the reaper does it: from the journal alone. The control of the marker: it runs until then."""
    running = asyncio.ensure_future(
        ground.run(
            "sh", "-c", "echo ready; while :; do sleep 0.1; done", DAEMON, sandbox=ground.sandbox(), grace_seconds=0.2
        )
    )
    await until_async(lambda: len(daemons()) >= 1)
    await until_async(lambda: "ready" in (ground.base / "log").read_text())
    (ended,) = await asyncio.to_thread(end_leftovers, ground.journal(None).directory, 0.2)
    assert len(ended.pids) >= 2, "bwrap and its process 1, with which the kernel ends what is below"
    assert ended.survivors == ()
    await running
    assert daemons() == []


async def test_bwrap_that_fails_is_no_failure_of_the_program(ground: Ground) -> None:
    """Nor may a program pass its own failure off as one of the sandbox, which costs no attempt."""
    lie = "echo 'bwrap: setting up uid map: Operation not permitted' >&2; exit 1"
    result = await ground.run("sh", "-c", lie, sandbox=ground.sandbox())
    assert (result.ended_by, result.returncode) == (Ending.EXITED, 1)
    programs = ground.base / "broken"
    programs.mkdir()
    (programs / "bwrap").write_text("#!/bin/sh\necho 'bwrap: Creating new namespace failed' >&2\nexit 1\n")
    (programs / "bwrap").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        with pytest.raises(SpawnFailed, match=r"bubblewrap cannot make a sandbox .*namespace failed.*: "):
            await ground.run("/bin/true", sandbox=ground.sandbox())


async def test_missing_bwrap_starts_nothing(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(ground.base / "outside"))
    required, optional = ground.sandbox(), ground.sandbox(required=False)
    assert "install bubblewrap" in (required.unavailable() or "")
    with pytest.raises(SpawnFailed, match="in its sandbox: there is no bwrap on the worker's PATH"):
        await ground.run("/bin/sh", "-c", "echo ran >ran", sandbox=required)
    assert not (ground.tree / "ran").exists()
    assert (await ground.run("/bin/echo", "ran", sandbox=optional)).stdout == b"ran\n"


async def test_hidden_or_whole_directory_is_refused(ground: Ground) -> None:
    """A row may have chosen it."""
    for cwd, why in ((ground.base / "denied", "is hidden by its sandbox"), (Path("/"), "all of /")):
        with pytest.raises(SpawnFailed, match=why):
            await ground.run("/bin/true", sandbox=ground.sandbox(), cwd=cwd)


async def test_hooks_that_are_a_link_are_refused(ground: Ground) -> None:
    hooks = ground.base / "repo" / ".git" / "hooks"
    hooks.rename(hooks.with_name("kept"))
    try:
        hooks.symlink_to("kept")
        with pytest.raises(SpawnFailed, match="is a link, which a sandbox cannot protect"):
            await ground.run("/bin/true", sandbox=ground.sandbox())
    finally:
        hooks.unlink()
        hooks.with_name("kept").rename(hooks)


async def test_exec_that_fails_inside_is_no_failure_of_the_program(ground: Ground) -> None:
    """It is there outside, so only the exec inside can tell."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        tool = Path(place, "tool")
        tool.write_text("#!/bin/sh\necho here\n")
        tool.chmod(0o755)
        assert (await ground.run(str(tool), sandbox=ground.sandbox())).stdout == b"here\n", (
            "the program itself is shown"
        )
        tool.write_text(f"#!{place}/interpreter\n")
        with pytest.raises(SpawnFailed, match="not found"):
            await ground.run(str(tool), sandbox=ground.sandbox())


async def test_plain_checkout_of_others_is_not_committed_to(ground: Ground) -> None:
    checkout = repository(ground.base / "checkout", a="1\n")
    script = "echo 2 >a; git -c user.name=a -c user.email=a@b commit -qam inside"
    refused = await ground.run("sh", "-c", script, sandbox=ground.sandbox(), cwd=checkout)
    assert refused.returncode != 0
    assert "Read-only file system" in refused.stderr_tail
    opened = ground.sandbox(write=[str(checkout / ".git")])
    assert (await ground.run("sh", "-c", script, sandbox=opened, cwd=checkout)).returncode == 0
    hook = await ground.run("sh", "-c", "echo x >.git/hooks/pre-commit", sandbox=opened, cwd=checkout)
    assert hook.returncode != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="run_as in a sandbox needs root")
async def test_run_as_and_sandbox_together(ground: Ground) -> None:
    with users.a_user("agents") as user:
        identity = identity_of(user.name)
        assert identity is not None
        own = identity.home / "work"
        identity.make_directory(own)
        sandbox = Sandbox(SandboxRules(secrets=(ground.state,)), identity)
        assert sandbox.unavailable() is None
        result = await ground.run(
            "sh", "-c", "id -u; echo x >mine; echo x >../outside; ls /proc | grep -c '^[0-9]'; cat",
            sandbox=sandbox, cwd=own, run_as=identity, stdin=b"in",
        )  # fmt: skip
        uid, processes, stdin = result.stdout.decode().split("\n")
        assert (int(uid), stdin) == (identity.uid, "in")
        assert int(processes) < 10
        assert (own / "mine").exists()
        assert not (identity.home / "outside").exists()


# ── workers ─────────────────────────────────────────────────────────────────────────────────────────────────────────

WORK = (
    """
case $1 in
commit) echo 3 >a; git -c user.name=a -c user.email=a@b commit -qam worked; echo x >"$2/outside/by-a-task"; exit 0 ;;
linger) setsid sh -c 'while :; do sleep 0.2; done' """
    + DAEMON
    + """ & while :; do sleep 0.2; done ;;
esac
"""
)


def worker_config(bench: Bench, ground: Ground, **sandbox: object) -> dict[str, Any]:
    program = ground.base / "work.sh"
    program.write_text(WORK)
    config = bench.config(state_dir=str(ground.base / "state2"))
    section = {
        "kind": "command",
        "command": ["sh", str(program), "{input[do]}", str(ground.base)],
        "workspace": {
            "kind": "worktree",
            "repo": str(ground.base / "repo"),
            "setup": ["sh", "-c", f"echo set up; echo x >{ground.base}/outside/by-setup; true"],
        },
        "check": {
            "command": ["sh", "-c", f"test -e a && ! echo x >{ground.base}/outside/by-check"],
            "requires": ["commit"],
        },
        "sandbox": sandbox,
        "grace_seconds": 1,
    }
    config["executors"]["x"] = section
    config["routes"]["default"] = "x"
    return config


def test_worker_runs_setup_work_and_check_inside(bench: Bench, ground: Ground) -> None:
    bench.start(worker_config(bench, ground)).listening()
    bench.insert("t", {"do": "commit"})
    row = bench.wait("t")
    assert row["retry_count"] == 0
    assert git(ground.base / "repo", "log", "-1", "--format=%s", "turbo/t").strip() == "worked"
    assert [one.name for one in (ground.base / "outside").iterdir()] == ["file"]
    for how in ("cancelled", "killed"):
        bench.insert(how, {"do": "linger"})
        until(lambda: len(daemons()) == 1, what=bench.logs)
        if how == "cancelled":
            bench.sql("update agent_tasks set status = 'cancelled' where task_id = %s", how)
        else:
            bench.workers[0].kill(signal.SIGKILL)
        until(lambda: daemons() == [], 15, bench.logs)


def test_worker_without_bwrap_leaves_the_task(bench: Bench, ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """And it costs no attempt. An executor that does not require its sandbox runs the task."""
    programs = ground.base / "programs"
    programs.mkdir()
    for name in ("sh", "git", "cat", "sleep", "env"):
        (programs / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(programs))
    config = worker_config(bench, ground)
    del config["executors"]["x"]["check"]
    open_too = {**config["executors"]["x"], "sandbox": {"required": False}, "command": ["sh", "-c", "echo ran"]}
    config["executors"]["y"] = open_too
    config["routes"]["open"] = "y"
    worker = bench.start(config).listening()
    bench.insert("closed", {"do": "commit"})
    bench.insert("open", task_type="open")
    bench.wait("open")
    (ground.base / "outside" / "by-setup").unlink()  # the control of the test above
    worker.said("executor x: its sandbox: there is no bwrap on the worker's PATH")
    worker.said("executor y runs its programs without a sandbox: there is no bwrap")
    row = bench.row("closed")
    assert (row["status"], row["retry_count"], row["infra_count"]) == ("pending", 0, 0)
    assert bench.trail("closed") == []


# ── agents ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def claude(tmp_path_factory: pytest.TempPathFactory) -> Iterator[claude_cli.Bench]:
    with claude_cli.a_bench(tmp_path_factory) as one:
        yield one


async def test_claude_works_and_resumes_inside(claude: claude_cli.Bench, ground: Ground) -> None:
    """In a default home. The files of settings are obeyed by every claude of this user, so the agent may not write them."""
    home = ground.base / "agent"
    home.mkdir()
    (home / ".claude").mkdir()
    settings = [home / ".claude.json", home / ".claude" / "settings.json"]
    for file in settings:
        file.write_text("{}")
    env = {name: value for name, value in claude.scrubbed().items() if name != "CLAUDE_CONFIG_DIR"}
    executor = ClaudeExecutor(
        "claude",
        [claude_cli.the_cli()],
        journal=ground.journal(ground.sandbox(network=True)),
        env_file=claude.login(),
        env={**env, "HOME": str(home), "TMPDIR": "/tmp"},
        model="sonnet",
        cli_max_retries=0,
        resume=True,
        allowed_tools=["Bash"],
    )
    work = claude.home / "work"
    work.mkdir(parents=True)
    # In a file: the CLI itself refuses a command whose text writes its settings.
    (work / "try.sh").write_text(
        f"touch {ground.base}/outside/by-claude; echo x >here; echo x >{home}/.claude/settings.json\n"
    )

    def decide(request: messages_api.Request) -> messages_api.Answer:
        return messages_api.text("done") if "tool_result" in request.everything else claude_cli.bash("sh ./try.sh")

    claude.api.decide = decide
    outcome = await claude.do(executor)
    assert outcome.output == "done", outcome
    assert "Read-only file system" in claude.api.requests[-1].everything
    assert [one.name for one in (ground.base / "outside").iterdir()] == ["file"]
    assert (work / "here").read_text() == "x\n"
    claude.api.decide = lambda _request: messages_api.text("again")
    again = await claude.do(executor, "and again", agent_session_id=claude.sessions[-1], retry_count=1)
    assert again.output == "again", again
    assert "say hello" in claude.api.requests[-1].everything
    assert [file.read_text() for file in settings] == ["{}", "{}"]
    assert any((home / ".claude" / "projects").iterdir()), "the session is kept"
