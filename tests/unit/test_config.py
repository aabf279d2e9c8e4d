"""worker.yaml: what is read, what is expanded, and how a mistake is told."""

import re
from pathlib import Path

import pytest

from turbo.config.worker import ConfigError, load_worker_config

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
        (LEAST + 'database: {dsn: "host=h password=geheim"}\n', "database.dsn: contains a password"),
        (LEAST + 'database: {dsn: "postgresql://u:geheim@h/d"}\n', "database.dsn: contains a password"),
        (LEAST + 'database: {dsn: "postgresql://h/d?password=geheim"}\n', "database.dsn: contains a password"),
        (LEAST + 'worker: {state_dir: "${SURELY_NOT_SET}"}\n', "variable SURELY_NOT_SET is not set"),
        ("executors: {x: {kind: command, command: [cat], account: me}}\n", "no account 'me'"),
        (
            "executors: {x: {kind: command, comand: [cat]}}\n",
            "executors.x.comand: unknown key; did you mean 'command'?",
        ),
        ("executors: {x: {command: [cat]}}\n", "kind is missing: use one of command, claude, python"),
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
