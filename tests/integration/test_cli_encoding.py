"""Commands at a terminal or in a pipe whose encoding lacks characters: they print others instead, and go on."""

import json

import pytest

from tests.support import prefork
from tests.support.prefork import TURBO
from tests.support.shell import Shell
from tests.support.workers import Bench, WorkerProcess

TEXT = "naïve → 日本語 💥 ✓"


def run(shell: Shell, encoding: str, *arguments: str) -> tuple[int, bytes, bytes]:
    done = prefork.run([TURBO, *arguments], env=shell.environment({"PYTHONIOENCODING": encoding}), cwd=shell.cwd)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def done(bench: Bench) -> WorkerProcess:
    """A finished task whose row is full of characters that Latin-1 lacks."""
    config = bench.config()
    config["executors"]["echoing"] = {"kind": "command", "command": ["/bin/sh", "-c", f"echo '{TEXT}'"]}
    config["routes"]["echoing"] = "echoing"
    (bench.path / "worker.yaml").write_text(json.dumps(config))
    worker = bench.start(config).listening()
    bench.sql("insert into agent_tasks (task_id, task_description, task_type) values ('t', %s, 'echoing')", TEXT)
    bench.wait("t")
    return worker


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_no_command_ends_at_a_character(bench: Bench, shell: Shell, done: WorkerProcess, encoding: str) -> None:
    state = str(bench.path / "state")
    plain = "na" if encoding == "ascii" else "naïve"
    for arguments in (
        ["tasks"], ["show", "t"], ["status"], ["top", "--once"], ["logs", "t", "--state-dir", state],
        ["submit", TEXT, "--type", "echoing", "--wait"], ["doctor", "--config", "worker.yaml"], ["migrate", "--plan"],
        ["tasks", "--text", "→"], ["show", "→"], ["--help"],
    ):  # fmt: skip
        code, out, err = run(shell, encoding, *arguments)
        assert b"Error" not in err, (arguments, err)
        assert b"codec" not in out + err, (arguments, err)
        assert code == 0 or arguments in (["show", "→"], ["doctor", "--config", "worker.yaml"]), (arguments, code, err)
        if arguments[0] in ("tasks", "show", "submit") and arguments != ["show", "→"]:
            assert plain.encode("latin-1") in out, (arguments, out)
        if encoding == "latin-1" and arguments[0] != "logs":
            assert b"\xe2" not in out, (arguments, out)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_json_loses_nothing_in_any_encoding(shell: Shell, done: WorkerProcess, encoding: str) -> None:
    for arguments in (["tasks", "--json"], ["show", "t", "--json"], ["logs", "t", "--json"], ["status", "--json"]):
        code, out, err = run(shell, encoding, *arguments)
        assert (code, err) == (0, b"")
        document = json.loads(out.decode(encoding))
        assert arguments[0] not in ("tasks", "show") or TEXT in json.dumps(document, ensure_ascii=False)


@pytest.mark.parametrize("command", ["tasks", "show t", "status", "top", "doctor --config worker.yaml"])
def test_terminal_shows_marks_that_it_has(shell: Shell, done: WorkerProcess, command: str) -> None:
    """At a terminal there are colours, marks and lines, which rich draws."""
    terminal = shell.terminal(*command.split(), columns=120, PYTHONIOENCODING="latin-1")
    try:
        if command == "top":
            terminal.said("queue")
            terminal.type("q")
        while terminal._read():
            pass
        code, shown = terminal.process.wait(30), terminal._said
    finally:
        terminal.kill()
    assert b"codec" not in shown, shown
    assert b"Traceback" not in shown
    assert code in (0, 1)
    if command.startswith("doctor"):
        assert b"+" in shown, "a check that passed is not marked like one that failed"
        assert b"\xe2\x9c\x93" not in shown


def test_log_on_a_latin_1_stderr_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    config = bench.config()
    config["executors"]["missing"] = {"kind": "command", "command": ["→"]}
    config["routes"]["missing"] = "missing"
    worker = bench.start(config)
    worker.said("listening on channel")
    assert "cannot start \\u2192" in worker.log
    assert "Traceback" not in worker.log
