"""worker.yaml: what is read, what is expanded, and how a mistake is told."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.prefork import TURBO
from tests.unit.test_config_bounds import sections
from turbo.config.worker import ConfigError, WorkerConfig, WorkerSection, load_worker_config
from turbo.domain.run import Run
from turbo.domain.task import Task
from turbo.executors.registry import build_executors
from turbo.fleet.model import load_fleet
from turbo.process.journal import Journal
from turbo.process.launch import at_home

EXAMPLE = Path(__file__).parents[2] / "config" / "worker.yaml"
LEAST = "executors: {x: {kind: command, command: [cat]}}\n"


def load(tmp_path: Path, text: str, **overrides: object):
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    return load_worker_config(file, overrides)


def test_example_is_valid(monkeypatch):
    monkeypatch.delenv("TURBO_DSN", raising=False)
    config = load_worker_config(EXAMPLE)
    assert config.worker.slots == 10
    assert config.routes["default"] == "claude"


def test_example_has_every_key_of_the_configuration():
    """In some section, perhaps commented out."""
    text = EXAMPLE.read_text()
    keys = {
        f"{section.__name__}.{name}"
        for section in sections(WorkerConfig)
        for name in (field.alias or name for name, field in section.model_fields.items())
        if not re.search(rf"(?m)(?:^|[{{,#]) *{name}:", text)
    }
    assert keys == set()


def test_variables_expand_after_parsing(tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", "a: [b")
    monkeypatch.delenv("NOT_SET", raising=False)
    text = 'executors: {x: {kind: command, command: ["${HERE}", "${NOT_SET:-d}", "$$HOME", "5$", "${A-B}"]}}'
    command = load(tmp_path, text).executors["x"].command
    assert command == ["a: [b", "d", "$HOME", "5$", "${A-B}"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty; expected the sections"),
        ("[1]", "is a list; expected the sections"),
        ("a: [", "is not YAML"),
        (LEAST + "worker: {slotz: 1}\n", ":2: worker.slotz: unknown key; did you mean 'slots'?"),
        (LEAST + "workers: {}\n", "workers: unknown key; did you mean 'worker'?"),
        (LEAST + "worker: {slots: many}\n", "worker.slots: must be a valid integer"),
        (LEAST + "worker: {slots: 0}\n", "worker.slots: must be greater than or equal to 1 (found 0)"),
        (LEAST + "worker: {slots: 1, slots: 2}\n", "worker.slots: appears twice"),
        (LEAST + "worker: {name: a/b}\n", "letters, digits, dot"),
        (LEAST + "worker: {queues: [a, a]}\n", "lists a queue twice"),
        (LEAST + "worker: {lease_seconds: 5}\n", "at least twice heartbeat_seconds"),
        (LEAST + "worker: {heartbeat_seconds: 0.0001}\n", "heartbeat_seconds: must be greater than or equal to 0.1"),
        (LEAST + "worker: {poll_seconds: 0.0001}\n", "poll_seconds: must be greater than or equal to 0.1"),
        (LEAST + "worker: {lease_seconds: 0.1}\n", "lease_seconds: must be greater than or equal to 0.2"),
        (LEAST + 'database: {dsn: "host=h password=geheim"}\n', "database.dsn: contains a password"),
        (LEAST + 'database: {listen_dsn: "host=h password=geheim"}\n', "database.listen_dsn: contains a password"),
        (LEAST + 'database: {listen_dsn: "host=h geheim"}\n', "database.listen_dsn: is not a connection string"),
        (LEAST + 'database: {dsn: "postgresql://u:geheim@h/d"}\n', "database.dsn: contains a password"),
        (LEAST + 'database: {dsn: "postgresql://h/d?password=geheim"}\n', "database.dsn: contains a password"),
        (LEAST + 'database: {dsn: "postgresql://h/d?%70assword=geheim"}\n', "database.dsn: contains a password"),
        (LEAST + 'database: {dsn: "host=h sslpassword=geheim"}\n', "database.dsn: contains a password"),
        (LEAST + 'worker: {state_dir: "${SURELY_NOT_SET}"}\n', "variable SURELY_NOT_SET is not set"),
        ("executors: {x: {kind: command, command: [cat], account: me}}\n", "no account 'me'"),
        (
            "executors: {x: {kind: command, comand: [cat]}}\n",
            "executors.x.comand: unknown key; did you mean 'command'?",
        ),
        (
            "executors: {x: {command: [cat]}}\n",
            "kind is missing: use one of command, claude, codex, acp, copilot, python",
        ),
        ("executors: {x: {kind: python, handler: nothing}}\n", "write module:function"),
        (LEAST + "routes: {default: y}\n", "routes.default: no executor 'y'"),
    ],
)
def test_mistake_is_reported_with_its_place_and_no_secret(tmp_path, text, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert says in str(error.value)
    assert "geheim" not in str(error.value)


def test_all_mistakes_are_reported_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, LEAST + "worker: {slotz: 1, drain_seconds: -1}\nmetrics: {port: 99999}\n")
    assert len(str(error.value).splitlines()) == 3


def test_command_line_overrides_the_file(tmp_path):
    config = load(
        tmp_path, LEAST + "worker: {slots: 3}\n", **{"worker.slots": 7, "worker.queues": ["q"], "metrics.port": 0}
    )
    assert (config.worker.slots, config.worker.queues, config.metrics.port) == (7, ["q"], 0)


def test_password_from_the_environment_is_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("TURBO_DSN", "postgresql://u:geheim@h/d")
    assert load(tmp_path, LEAST + 'database: {dsn: "${TURBO_DSN:-}"}\n').database.dsn.endswith("@h/d")


WORKSPACE = "executors: {{x: {{kind: command, command: [cat], workspace: {{kind: worktree, repo: /r{}}}{}}}}}\n"


def test_workspace_is_read(tmp_path):
    section = load(tmp_path, WORKSPACE.format("", "")).executors["x"].workspace
    assert (section.repo, section.ref, section.branch, section.keep) == ("/r", "HEAD", "turbo/{task_id}", "changed")
    home = WORKSPACE.replace("repo: /r", 'repo: "~/r"').format("", "")
    assert load(tmp_path, home).executors["x"].workspace.repo == str(Path.home() / "r")


@pytest.mark.parametrize(
    ("keys", "beside", "says"),
    [
        (", repo: work/project", "", "workspace.repo: appears twice"),
        (", branches: x", "", "workspace.branches: unknown key; did you mean 'branch'?"),
        (", keep: sometimes", "", "workspace.keep: must be 'changed', 'always' or 'never' (found 'sometimes')"),
        (", keep_days: 0", "", "workspace.keep_days: must be greater than or equal to 1"),
        (", max_gb: -1", "", "workspace.max_gb: must be greater than 0"),
        (", branch: agents", "", "workspace.branch: 'agents' must contain {task_id} exactly once"),
        (', branch: "{task_id}/{repo}"', "", "may contain no placeholder except {task_id}"),
        (', branch: "a b/{task_id}"', "", "workspace.branch: 'a b/{task_id}' contains ' '"),
        (', branch: "-{task_id}"', "", "would be a flag"),
        (", ref: --upload-pack=x", "", "workspace.ref: '--upload-pack=x' begins with '-'"),
        (", ref: main~1", "", "workspace.ref: 'main~1' contains '~'; write HEAD, origin/main"),
        (', refs: ["-x"]', "", "workspace.refs: '-x' is not a ref pattern"),
        (', setup: [""]', "", "workspace.setup: is not a command"),
        (", setup: npm ci", "", "workspace.setup: must be a valid list"),
        (", setup_seconds: 0", "", "workspace.setup_seconds: must be greater than 0"),
        (", from: plan", "", "workspace.from: must be 'ref' or 'needs' (found 'plan')"),
        (", form: needs", "", "workspace.form: unknown key; did you mean 'from'?"),
        (", fetch: true", "", "workspace.fetch: has nothing to fetch: ref 'HEAD' is not a remote branch"),
        ("", ", cwd: /x", "x.cwd: cannot be set together with workspace"),
        ("", ", exclusive_cwd: true", "x.exclusive_cwd: is for a directory that tasks share"),
    ],
)
def test_unusable_workspace_is_one_line(tmp_path, keys, beside, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, WORKSPACE.format(keys, beside))
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (WORKSPACE.replace("/r", "work/r").format("", ""), "workspace.repo: 'work/r' must be an absolute path"),
        (WORKSPACE.replace("worktree", "clone").format("", ""), "workspace.kind: must be 'worktree'"),
        (WORKSPACE.replace("repo: /r", "ref: x").format("", ""), "workspace.repo: is missing"),
        (
            "executors: {x: {kind: python, handler: 'a:b', workspace: {kind: worktree, repo: /r}}}",
            "executors.x.workspace: unknown key",
        ),
    ],
)
def test_invalid_workspace_is_reported(tmp_path, text, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(tmp_path, text)


def test_workspace_of_the_example_is_valid(tmp_path):
    """It is commented out there; what a person uncomments must work."""
    text = EXAMPLE.read_text()
    shown = re.search(r"\n    workspace: null.*\n((?:    #.*\n)+)", text)
    given = "".join(line.replace("# ", "", 1) + "\n" for line in shown[1].splitlines())
    section = load(tmp_path, text.replace(shown[0], "\n" + given)).executors["claude"].workspace
    assert section.model_fields_set == set(type(section).model_fields)
    assert section == type(section)(kind="worktree", repo=section.repo)


def test_home_is_expanded_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    text = """
        database: {dsn: "host=h sslcert=~/cert"}
        worker: {state_dir: ~/state, allowed_roots: [~/a, /b]}
        metrics: {tls: {certfile: ~/cert, keyfile: ~/key, client_ca: ~/ca}}
        accounts: {a: {env_file: ~/a.env}}
        executors:
          x: {kind: command, command: [~/bin/x, ~/data, "~", a~/b, "~x", "--at=~/y"], cwd: ~/work, env: {PLACE: ~/x}}
          y: {kind: command, command: [y], workspace: {kind: worktree, repo: ~/repo, setup: [~/bin/setup, ~/data]}}
    """
    config = load(tmp_path, text)
    assert config.worker.state_dir == "/home/me/state"
    assert config.worker.allowed_roots == ["/home/me/a", "/b"]
    assert config.metrics.tls.model_dump() == {
        "certfile": "/home/me/cert", "keyfile": "/home/me/key", "client_ca": "/home/me/ca"
    }  # fmt: skip
    assert config.accounts["a"].env_file == "/home/me/a.env"
    x, y = config.executors["x"], config.executors["y"]
    assert (x.cwd, y.workspace.repo) == ("/home/me/work", "/home/me/repo")
    assert at_home(x.command) == ("/home/me/bin/x", "/home/me/data", "/home/me", "a~/b", "~x", "--at=~/y")
    assert at_home(y.workspace.setup) == ("/home/me/bin/setup", "/home/me/data")
    assert (config.database.dsn, x.env["PLACE"]) == ("host=h sslcert=~/cert", "~/x"), "libpq and programs read these"


async def test_home_is_expanded_when_a_command_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    text = f"worker: {{state_dir: {tmp_path / 'state'}}}\nexecutors: {{x: {{kind: command, command: [echo, ~/data]}}}}"
    executor = build_executors(load(tmp_path, text), Journal(tmp_path / "journal"))["x"]
    task = Task("t", "x", "x", timeout_seconds=30)
    outcome = await executor.run(Run(task, tmp_path / "work", tmp_path / "log"))
    assert outcome.output == f"{tmp_path / 'home'}/data\n"


def test_wrong_kind_of_file_is_named(tmp_path):
    fleet, worker = EXAMPLE.with_name("fleet.yaml"), EXAMPLE
    with pytest.raises(ConfigError) as error:
        load_worker_config(fleet)
    assert str(error.value) == (
        f"{fleet}: is a fleet file: turbo fleet render --file {fleet}; a worker's file has executors "
        "(config/worker.yaml is an example)"
    )
    with pytest.raises(ConfigError) as error:
        load_fleet(worker)
    assert str(error.value) == (
        f"{worker}: is a worker's file: turbo worker --config {worker}; a fleet file has hosts "
        "(config/fleet.yaml is an example)"
    )
    commands: list[list[str | Path]] = [
        ["worker", "--config", fleet],
        ["doctor", "--config", fleet],
        ["fleet", "render", "--file", worker],
        ["fleet", "status", "--file", worker],
    ]
    for command in commands:
        done = subprocess.run([TURBO, *command], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1
        assert "is a fleet file" in done.stderr or "is a worker's file" in done.stderr
    for file in (fleet, worker):  # the kind that it is decides
        assert subprocess.run([TURBO, "config", "check", file], capture_output=True).returncode == 0
    with pytest.raises(ConfigError, match="hosts: unknown key"):
        load(tmp_path, LEAST + "hosts: {}\n")


def test_default_state_directory_is_in_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert WorkerSection().state_dir == "/home/somebody/.local/state/turbo"


def test_key_that_nothing_follows_is_no_null(tmp_path: Path) -> None:
    """YAML takes `run_as:` with its value in a comment for null: the program would run as the worker's user."""
    file = tmp_path / "worker.yaml"
    file.write_text(
        """
executors:
  x: {kind: command, command: [x], ask: , run_as: , workspace: , cwd: null}
  y:
metrics:
  tls:
    # certfile: x
  port:
accounts:
  main:
retention:
  completed_days: null
"""
    )
    with pytest.raises(ConfigError) as refused:
        load_worker_config(file)
    section = "write its keys below it, or {} for its defaults"
    assert [line.removeprefix(f"{file}:") for line in str(refused.value).splitlines()] == [
        f"3: executors.x.ask: nothing follows it: {section}, or leave it out",
        "3: executors.x.run_as: nothing follows it: write its value, or null for none, or leave it out",
        f"3: executors.x.workspace: nothing follows it: {section}, or leave it out",
        f"6: metrics.tls: nothing follows it: {section}, or leave it out",
        "8: metrics.port: nothing follows it: write its value, or leave it out",
        f"10: accounts.main: is a section: {section}",
        f"4: executors.y: is a section: {section}",
    ]
