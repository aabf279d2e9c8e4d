"""worker.yaml: what is read, what is expanded, and how a mistake is told."""

from pathlib import Path

import pytest

from turbo.config import ConfigError, load_worker_config

EXAMPLE = Path(__file__).parents[2] / "config" / "worker.yaml"
LEAST = "executors: {x: {kind: command, command: [cat]}}\n"


def load(tmp_path: Path, text: str, **overrides: object):
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    return load_worker_config(file, overrides)


def test_the_example_is_good(monkeypatch):
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
        (LEAST + "worker: {slots: many}\n", "worker.slots: input should be a valid integer"),
        (LEAST + "worker: {slots: 0}\n", "worker.slots: input should be greater than or equal to 1 (found 0)"),
        (LEAST + "worker: {slots: 1, slots: 2}\n", "worker.slots: stands twice"),
        (LEAST + "worker: {name: a/b}\n", "letters, digits, dot"),
        (LEAST + "worker: {queues: [a, a]}\n", "names a queue twice"),
        (LEAST + "worker: {lease_seconds: 5}\n", "at least twice heartbeat_seconds"),
        (LEAST + 'database: {dsn: "host=h password=geheim"}\n', "database.dsn: holds a password"),
        (LEAST + 'database: {dsn: "postgresql://u:geheim@h/d"}\n', "database.dsn: holds a password"),
        (LEAST + 'database: {dsn: "postgresql://h/d?password=geheim"}\n', "database.dsn: holds a password"),
        (LEAST + 'worker: {state_dir: "${SURELY_NOT_SET}"}\n', "variable SURELY_NOT_SET is not set"),
        ("executors: {x: {kind: command, command: [cat], account: me}}\n", "no account 'me'"),
        (
            "executors: {x: {kind: command, comand: [cat]}}\n",
            "executors.x.comand: unknown key; did you mean 'command'?",
        ),
        ("executors: {x: {command: [cat]}}\n", "kind is missing: one of command, claude, python"),
        ("executors: {x: {kind: python, handler: nothing}}\n", "write module:function"),
        (LEAST + "routes: {default: y}\n", "routes.default: no executor 'y'"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_no_secret(tmp_path, text, says):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert says in str(error.value)
    assert "geheim" not in str(error.value)


def test_all_mistakes_are_told_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        load(tmp_path, LEAST + "worker: {slotz: 1, drain_seconds: -1}\nmetrics: {port: 99999}\n")
    assert len(str(error.value).splitlines()) == 3


def test_the_command_line_is_stronger_than_the_file(tmp_path):
    config = load(
        tmp_path, LEAST + "worker: {slots: 3}\n", **{"worker.slots": 7, "worker.queues": ["q"], "metrics.port": 0}
    )
    assert (config.worker.slots, config.worker.queues, config.metrics.port) == (7, ["q"], 0)


def test_a_password_from_the_environment_is_the_operators_business(tmp_path, monkeypatch):
    monkeypatch.setenv("TURBO_DSN", "postgresql://u:geheim@h/d")
    assert load(tmp_path, LEAST + 'database: {dsn: "${TURBO_DSN:-}"}\n').database.dsn.endswith("@h/d")
