"""The section of an executor for agents over ACP: each mistake is one clear error."""

from pathlib import Path

import pytest

from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config
from turbo.executors.acp.executor import AcpExecutor
from turbo.executors.agent.session import kind_of
from turbo.executors.pool import AccountPool
from turbo.executors.protocol import Executor
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal

OPENCODE = "profile: opencode, model: a/b"
TELLS = "{name: goose, tells_failures: true, resume: load, mode: set_mode, holding: {mode: ask}}"


def loaded(tmp_path: Path, section: str) -> WorkerConfig:
    file = tmp_path / "worker.yaml"
    file.write_text(f"executors: {{x: {{kind: acp, {section}}}}}\n")
    return load_worker_config(file)


def built(tmp_path: Path, section: str) -> Executor:
    return build_executors(loaded(tmp_path, section), Journal(tmp_path / "journal"))["x"]


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        (OPENCODE, "acp:opencode"),
        ("profile: gemini", "acp:gemini"),
        ("profile: qwen, mode: default", "acp:qwen"),
        (f"command: [goose, acp], profile: {TELLS}", "acp:goose"),
        ("command: [goose, acp], check: {command: ['true']}", "acp:xx"),
        (OPENCODE + ", ask: {approve: ['Bash(git push *)', Delete]}", "acp:opencode"),
        (f"command: [goose, acp], profile: {TELLS}, ask: {{approve: [Edit]}}", "acp:goose"),
    ],
)
def test_good_acp_section_becomes_an_executor(tmp_path: Path, section: str, kind: str) -> None:
    executor = built(tmp_path, section)
    assert isinstance(executor, AcpExecutor)
    assert executor.session_kind == kind
    assert kind_of(f"{kind}:ses_1") == kind


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ("command: [goose, acp]", "executors.x.check: an agent without a profile needs check"),
        ("command: [goose], profile: {name: goose}", "the profile goose, which does not tell failures, needs check"),
        ("profile: opencode", "executors.x.model: is needed: without one, opencode chooses a service by itself"),
        ("profile: goose", "no profile 'goose'; known: opencode, gemini, qwen. For another agent write a section"),
        ("", "command"),
        ("profile: gemini, ask: {}", "executors.x.ask: an agent over ACP cannot ask questions"),
        ("profile: gemini, ask: {approve: [Edit]}", "the profile gemini has no holding, or no resume"),
        (
            "command: [goose], check: {command: ['true']}, ask: {approve: [Edit]}",
            "executors.x.ask.approve: needs a profile with holding and resume",
        ),
        (
            "command: [goose], check: {command: ['true']}, model: m",
            "executors.x.model: turbo does not know how this agent takes its model",
        ),
        (
            "command: [g], profile: {name: g, tells_failures: true}, mode: plan",
            "executors.x.mode: turbo does not know how",
        ),
        ("command: [g], profile: {name: g, holding: {mode: ask}}", "holding.mode needs mode"),
        (OPENCODE + ", permissions: {write: allow}", "permissions.write"),
        (OPENCODE + ", permissions: {edit: ask}", "executors.x.permissions.edit"),
        ("command: [g], profile: {name: Goose}", "executors.x.profile.name"),
        (
            "command: [g], profile: {name: g, model: somehow}",
            "write set_model, set_mode, option:ID, env:NAME or arg:FLAG",
        ),
        (
            "command: [g], profile: {name: g, failures: [{means: login}]}",
            "tells nothing: give code, data, text, said or logged",
        ),
        ("command: [g], profile: {name: g, failures: [{means: hunger, code: [1]}]}", "executors.x.profile.failures"),
        ("command: [g], profile: {name: g, failures: [{means: login, text: [a]}]}", "executors.x.profile.failures"),
        ("command: [g], profile: [opencode]", "executors.x.profile"),
    ],
)
def test_bad_acp_section_is_one_clear_error(tmp_path: Path, section: str, error: str) -> None:
    with pytest.raises(ConfigError) as refused:
        built(tmp_path, section)
    assert error in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_acp_pool_has_a_member_for_each_login_and_model(tmp_path: Path) -> None:
    for name in ("a", "b"):
        env_file = tmp_path / f"{name}.env"
        env_file.write_text("ANTHROPIC_API_KEY=x\n")
        env_file.chmod(0o600)
    file = tmp_path / "worker.yaml"
    file.write_text(
        f"accounts: {{a: {{env_file: {tmp_path}/a.env}}, b: {{env_file: {tmp_path}/b.env}}}}\n"
        "executors: {x: {kind: acp, profile: opencode, accounts: [a, b], model: p/one, fallback_models: [p/two]}}\n"
    )
    pool = build_executors(load_worker_config(file), Journal(tmp_path / "journal"))["x"]
    assert isinstance(pool, AccountPool)
    assert pool.session_kind == "acp:opencode"
    assert [(one.account, one.model) for one in pool.members] == [
        ("a", "p/one"),
        ("b", "p/one"),
        ("a", "p/two"),
        ("b", "p/two"),
    ]
