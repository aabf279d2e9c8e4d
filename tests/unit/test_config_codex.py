"""The section of a Codex executor: each mistake is one clear error."""

from pathlib import Path

import pytest

from turbo.config.worker import ConfigError, load_worker_config
from turbo.executors.codex.answer import strict
from turbo.executors.codex.executor import CodexExecutor
from turbo.executors.pool import AccountPool
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal


def refused(tmp_path: Path, section: str) -> list[str]:
    file = tmp_path / "worker.yaml"
    file.write_text(f"executors: {{x: {{kind: codex, {section}}}}}\n")
    with pytest.raises(ConfigError) as caught:
        build_executors(load_worker_config(file), Journal(tmp_path / "journal"))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ("sandbox: none", "executors.x.sandbox: must be"),
        ("sandbox: danger-full-access, network: false", "network: false needs a sandbox"),
        ("permission_mode: plan", "executors.x.permission_mode: unknown key"),
        ("max_budget_usd: 3", "executors.x.max_budget_usd: unknown key"),
        ("command: [codex, -s, read-only]", "executors.x.command: contains -s: set sandbox of the executor instead"),
        ("command: [codex, --sandbox=read-only]", "contains --sandbox: set sandbox of the executor instead"),
        ("command: [codex, exec]", "contains exec: turbo adds it"),
        ("command: [codex, -m, gpt-5.5]", "contains -m: set model of the executor instead"),
        ("command: []", "executors.x.command"),
        ("command: ['']", "command is empty"),
        ("ask: {approve: [Bash]}", "cannot hold a call until a person approves it; only kind: claude can"),
        ("env: {PGPASSWORD: x}", "gives access to turbo's own database"),
        ("silence_seconds: 0", "executors.x.silence_seconds"),
    ],
)
def test_bad_codex_section_is_one_clear_error(tmp_path: Path, section: str, error: str) -> None:
    (line,) = refused(tmp_path, section)
    assert error in line


def test_codex_pool_has_a_member_for_each_login_and_model(tmp_path: Path) -> None:
    env_file = tmp_path / "a.env"
    env_file.write_text("CODEX_API_KEY=x\n")
    env_file.chmod(0o600)
    section = "{kind: codex, accounts: [a, b], model: gpt-6.1-sol, fallback_models: [gpt-5.5]}"
    file = tmp_path / "worker.yaml"
    file.write_text(f"accounts: {{a: {{env_file: {env_file}}}, b: {{}}}}\nexecutors: {{x: {section}}}\n")
    pool = build_executors(load_worker_config(file), Journal(tmp_path / "journal"))["x"]
    assert isinstance(pool, AccountPool)
    members = [(one.account, one.model, type(one.executor)) for one in pool.members]
    models = ("gpt-6.1-sol", "gpt-5.5")
    assert members == [(account, model, CodexExecutor) for model in models for account in ("a", "b")]


NAMED = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "is_strict"),
    [
        (NAMED, True),
        ({"type": "object", "properties": {}, "additionalProperties": False}, True),
        (NAMED | {"required": []}, False),
        (NAMED | {"additionalProperties": True}, False),
        (NAMED | {"properties": {"a": True}}, False),
        (NAMED | {"properties": {"a": {"type": "string", "minLength": 3}}}, False),
        (NAMED | {"anyOf": [NAMED]}, False),
        ({"type": "array", "items": {"type": "string"}}, False),
        (
            NAMED | {"properties": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/n"}]}}, "$defs": {"n": NAMED}},
            True,
        ),
        (NAMED | {"properties": {"a": {"type": "array", "items": {"type": "integer", "minimum": 3}}}}, True),
    ],
)
def test_strict_schemas_are_told_apart(schema: object, *, is_strict: bool) -> None:
    assert strict(schema, top=True) is is_strict
