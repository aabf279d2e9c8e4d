"""What holds for every command: help, completion, wrong usage, no database, a closed pipe."""

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.support.prefork import TURBO
from tests.support.shell import Shell
from turbo.cli.main import COMMANDS

GROUPS = {
    "db": ("start", "stop", "url"),
    "agents": ("probe",),
    "config": ("check", "schema"),
    "self": ("check", "examples"),
    "budget": ("set", "list", "remove"),
    "subscription": ("add", "list", "pause", "resume", "remove", "test"),
    "limit": ("set", "list", "remove"),
    "schedule": ("add", "list", "show", "pause", "resume", "run", "remove"),
    "fleet": ("render", "install", "uninstall", "start", "stop", "restart", "status"),
}
COMMANDS_WITH_DATA = ("tasks", "status", "doctor")
ASKING = [
    ["tasks"],
    ["status"],
    ["show", "x"],
    ["logs", "x"],
    ["cancel", "x"],
    ["retry", "x"],
    ["pause", "--queue", "q"],
]
ASKING += [["submit", "x"], ["submit", "--file", "many.jsonl"]]


# ── help and completion ─────────────────────────────────────────────────────────────────────────────────────────────


def test_every_command_has_help_with_examples(shell: Shell) -> None:
    top = shell("--help")
    assert top.code == 0
    listed = top.out.partition("\nCommands:\n")[2]
    for name in COMMANDS:
        line = next(line for line in listed.splitlines() if line.split()[0] == name)
        assert not line.endswith("..."), f"its one line is cut: {line}"
        for words in [[name, sub] for sub in GROUPS[name]] if name in GROUPS else [[name]]:
            done = shell(*words, "--help")
            assert done.code == 0
            assert "Example" in done.out, words
            assert f"turbo {' '.join(words)}" in done.out


def complete(shell: Shell, words: str) -> list[str]:
    """What bash would offer after these words."""
    count = len(words.split()) - (0 if words.endswith(" ") else 1)
    return shell(_TURBO_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(count)).out.split()


def test_shell_completes_commands_options_words_and_ids(shell: Shell) -> None:
    for name in ("my_1", "my_2", "other"):
        shell("submit", "x", "--id", name)
    assert {"submit", "tasks", "doctor", "status"} <= set(complete(shell, "turbo "))
    assert complete(shell, "turbo stat") == ["status"]
    assert complete(shell, "turbo tasks --stat") == ["--status"]
    assert complete(shell, "turbo tasks --status ca") == ["cancelled"]
    assert complete(shell, "turbo retry --failure-kind usage") == ["usage_limit"]
    assert complete(shell, "turbo show my_") == ["my_2", "my_1"]
    assert complete(shell, "turbo cancel my_1 oth") == ["other"]
    assert complete(shell, "turbo show m_") == [], "_ is no wildcard"


def test_completion_without_a_database_prints_nothing(tmp_path: Path) -> None:
    away = Shell("host=127.0.0.1 port=1", tmp_path)
    done = away(_TURBO_COMPLETE="complete_bash", COMP_WORDS="turbo show x", COMP_CWORD="2")
    assert done.out.strip() == ""
    assert done.err == ""


def test_completion_installs_itself(shell: Shell, tmp_path: Path) -> None:
    done = shell("--install-completion", "bash", HOME=str(tmp_path), SHELL="/bin/bash")
    assert done.code == 0
    assert "turbo.sh" in (tmp_path / ".bashrc").read_text()
    script = tmp_path / ".bash_completions" / "turbo.sh"
    words = 'COMP_WORDS=(turbo stat); COMP_CWORD=1; _turbo_completion turbo; echo "${COMPREPLY[@]}"'
    environment = shell.environment({"HOME": str(tmp_path), "PATH": f"{TURBO.parent}:{os.environ['PATH']}"})
    done2 = subprocess.run(
        ["bash", "--norc", "-c", f". {script}; {words}"], capture_output=True, text=True, env=environment
    )
    assert done2.stdout == "status\n", done2


# ── what goes wrong ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["taks"], "no such command 'taks'. Did you mean 'tasks'"),
        (["tasks", "--stat", "failed"], "no such option: --stat (did you mean --status"),
        (["tasks", "--status", "fialed"], "one of scheduled, pending, blocked, running, waiting"),
        (["tasks", "--limit", "0"], "greater than or equal to 1"),
        (["tasks", "--since", "whenever"], "write 1h, 2d, 2026-12-01T09:00"),
        (["tasks", "--failure-kind", "bad"], "one of error, timed_out"),
        (["show"], "missing argument"),
        (["cancel"], "give either task ids or filter options"),
        (["cancel", "x", "--queue", "q"], "give either task ids"),
        (["retry", "--status", "running"], "must be one of completed, failed, cancelled"),
        (["pause"], "give either --queue or --account"),
        (["pause", "--queue", "A B"], "is not a queue name"),
        (["logs", "x", "-f", "--json"], "remove --follow"),
        (["submit"], "give either the text or --file FILE"),
        (["submit", "a", "b"], "unexpected extra argument"),
        (["submit", " "], "is empty"),
        (["submit", "x", "--priority", "high"], "write a whole number"),
        (["submit", "x", "--after", "whenever"], "write 10m, 2h30m"),
        (["submit", "x", "--input", "{"], "--input is not JSON"),
        (["submit", "x", "--timeout", "0"], "write at least 1"),
        (["submit", "x", "--queue", "A B"], "1 to 40 of a-z 0-9 _ -"),
        (["submit", "--file", "none.jsonl"], "No such file"),
        (["submit", "--file", "/tmp"], "Is a directory"),
        (["submit", "x", "--from-line", "3"], "--from-line needs a .jsonl or .csv file"),
        (["submit", "--file", "x.jsonl", "--id", "i"], "put it in the file"),
        (["config", "check", "none.yaml"], "cannot be read"),
    ],
)  # fmt: skip
def test_wrong_usage_prints_one_line_and_exits_2(shell: Shell, words: list[str], text: str) -> None:
    shell(*words).one_line(2, text)


@pytest.mark.parametrize("words", ASKING, ids=lambda words: words[0])
def test_missing_database_prints_one_line_and_exits_1(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "many.jsonl").write_text('"x"\n')
    away = Shell("postgresql://me:hush@127.0.0.1:1/db", tmp_path)
    done = away(*words)
    done.one_line(1, "cannot reach the database: ")
    assert "Is it running? (check --dsn, TURBO_DSN or the PG* variables)" in done.err
    assert "hush" not in done.err


def test_database_without_turbo_gets_advice(shell: Shell, empty_dsn: str) -> None:
    for words in ASKING:
        if "--file" not in words:
            shell(*words, "--dsn", empty_dsn).one_line(1, "no turbo schema: run `turbo migrate`")
    shell("tasks", "--dsn", "no such thing").one_line(2, "the DSN cannot be read")
    done = shell("tasks", "--dsn", psycopg.conninfo.make_conninfo(shell.dsn, dbname="nowhere"))
    done.one_line(1, "create it first")
    assert "Is it running" not in done.err


def test_unknown_and_ambiguous_ids_are_reported(shell: Shell) -> None:
    for name in ("my_1", "my_2"):
        shell("submit", "x", "--id", name)
    for command in ("show", "logs"):
        shell(command, "none").one_line(1, "no task 'none'; `turbo tasks` lists them")
        shell(command, "my").one_line(1, "'my' is a prefix of several ids: my_1, my_2")
        shell(command, "%").one_line(1, "no task '%'")
        shell(command, "").one_line(1, "no task ''")


# ── a pipe ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("words", [["tasks", "--limit", "9999"], ["tasks", "--json", "--limit", "9999"]], ids=str)
def test_closed_pipe_ends_a_command_silently(shell: Shell, words: list[str]) -> None:
    with psycopg.connect(shell.dsn, autocommit=True) as db:
        db.execute("insert into agent_tasks (task_description) select repeat('x', 180) from generate_series(1, 2000)")
    line = f"'{TURBO}' {' '.join(words)} | head -c 1; echo \" ${{PIPESTATUS[0]}}\""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True, env=shell.environment(), timeout=60
    )
    assert done.stdout.split()[-1] == "141"
    assert done.stderr == ""


def test_submit_continues_after_its_reader_has_left(shell: Shell) -> None:
    """Half of the tasks must not be missing because somebody looked at the first id."""
    (shell.cwd / "many.jsonl").write_text('"x"\n' * 3000)
    line = f"'{TURBO}' submit --file many.jsonl --batch 100 | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=shell.environment(), cwd=shell.cwd, timeout=60
    )
    assert done.stderr == "3000 tasks inserted\n"
    assert done.stdout == "0\n"
    assert len(shell("tasks", "--json", "--limit", "9999").json) == 3000


def test_closed_stdout_prints_no_traceback(shell: Shell) -> None:
    done = subprocess.run(
        ["bash", "-c", f"'{TURBO}' tasks >&-"], stderr=subprocess.PIPE, env=shell.environment(), timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"no tasks\n")


def test_unprintable_id_is_submitted_and_reported(shell: Shell) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [TURBO, "submit", "x", "--id", "mine"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=shell.environment(),
            timeout=60,
        )
    assert done.returncode == 1
    assert (
        done.stderr == b"turbo submit: task mine was inserted; its id could not be printed: No space left on device\n"
    )
    assert [task["task_id"] for task in shell("tasks", "--json").json] == ["mine"]


def test_worker_with_an_invalid_dsn_exits_at_once(shell: Shell) -> None:
    (shell.cwd / "w.yaml").write_text("worker: {state_dir: state}\nexecutors: {e: {kind: command, command: [cat]}}\n")
    shell("worker", "-c", "w.yaml", "--dsn", "no such thing").one_line(2, "the DSN cannot be read")


def test_full_disk_behind_a_pipe_is_an_error(shell: Shell) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [TURBO, "status"], stdout=full, stderr=subprocess.PIPE, env=shell.environment(), timeout=60
        )
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert done.stderr.count(b"\n") == 1
