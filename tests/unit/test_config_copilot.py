"""The section of a Copilot executor: each mistake is one clear error."""

import os
from pathlib import Path

import pytest

from turbo.config.worker import ConfigError, load_worker_config
from turbo.executors.copilot.executor import CopilotExecutor
from turbo.executors.copilot.permissions import CopilotPermissions
from turbo.executors.copilot.program import native
from turbo.executors.pool import AccountPool
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal


def refused(tmp_path: Path, section: str) -> list[str]:
    file = tmp_path / "worker.yaml"
    file.write_text(f"executors: {{x: {{kind: copilot, {section}}}}}\n")
    with pytest.raises(ConfigError) as caught:
        build_executors(load_worker_config(file), Journal(tmp_path / "journal"))
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("section", "error"),
    [
        ("max_budget_usd: 3", "max_budget_usd: the Copilot CLI has no limit in US dollars: set max_ai_credits"),
        ("max_turns: 3", "max_turns: the Copilot CLI has no limit of turns"),
        ("permission_mode: plan", "set allowed_tools, disallowed_tools or any_path"),
        ("sandbox: read-only", "executors.x.sandbox: is a section"),
        ("network: true", "network: is for kind: codex"),
        ("ask: {}", "ask: a Copilot agent can neither ask a person nor hold a call"),
        ("ask: {approve: [write]}", "use kind: claude for work that asks"),
        ("trust_repository: true", "put --trust-folder into command"),
        ("cli_max_retries: 0", "the Copilot CLI's own retries cannot be set"),
        ("max_ai_credits: 3", "executors.x.max_ai_credits"),
        ("nonsense: 3", "executors.x.nonsense: unknown key"),
        ("command: [copilot, --yolo]", "executors.x.command: contains --yolo: set allowed_tools"),
        ("command: [copilot, --allow-tool=write]", "contains --allow-tool: set allowed_tools"),
        ("command: [copilot, --model, gpt-5]", "contains --model: set model of the executor instead"),
        ("command: [copilot, -p, hi]", "contains -p: the prompt is turbo's"),
        ("command: [copilot, --resume]", "contains --resume: turbo names the session"),
        ("command: [copilot, --acp]", "make it kind: acp"),
        ("command: []", "executors.x.command"),
        ("command: ['']", "command is empty"),
        ("env: {PGPASSWORD: x}", "gives access to turbo's own database"),
        ("silence_seconds: 0", "executors.x.silence_seconds"),
    ],
)
def test_bad_copilot_section_is_one_clear_error(tmp_path: Path, section: str, error: str) -> None:
    (line,) = refused(tmp_path, section)
    assert error in line


def test_copilot_pool_has_a_member_for_each_login_and_model(tmp_path: Path) -> None:
    env_file = tmp_path / "a.env"
    env_file.write_text("COPILOT_GITHUB_TOKEN=x\n")
    env_file.chmod(0o600)
    section = "{kind: copilot, accounts: [a, b], model: claude-sonnet-4.5, fallback_models: [gpt-5-mini]}"
    file = tmp_path / "worker.yaml"
    file.write_text(f"accounts: {{a: {{env_file: {env_file}}}, b: {{}}}}\nexecutors: {{x: {section}}}\n")
    pool = build_executors(load_worker_config(file), Journal(tmp_path / "journal"))["x"]
    assert isinstance(pool, AccountPool)
    members = [(one.account, one.model, type(one.executor)) for one in pool.members]
    models = ("claude-sonnet-4.5", "gpt-5-mini")
    assert members == [(account, model, CopilotExecutor) for model in models for account in ("a", "b")]


def test_account_of_another_kind_of_agent_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text(
        "accounts: {a: {}}\nexecutors: {x: {kind: codex, account: a}, y: {kind: copilot, account: a}}\n"
        "routes: {default: x}\n"
    )
    with pytest.raises(ConfigError, match=r"executors.y.account: a is also the account of executors.x"):
        load_worker_config(file)


def test_permissions_become_flags() -> None:
    assert CopilotPermissions().flags == ("--allow-all-urls", "--allow-all-tools")
    some = CopilotPermissions(("write", "shell(git:*)"), ("shell(git push)",), any_path=True)
    assert some.flags == (
        "--allow-tool=write",
        "--allow-tool=shell(git:*)",
        "--deny-tool=shell(git push)",
        "--allow-all-paths",
    )


def test_native_binary_is_found_beside_its_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    launcher = tmp_path / "@github" / "copilot" / "npm-loader.js"
    launcher.parent.mkdir(parents=True)
    launcher.touch()
    link = tmp_path / "copilot"
    link.symlink_to(launcher)
    assert native(str(link)) == str(link), "its binary is not there"
    binary = tmp_path / "@github" / "copilot-linux-x64" / "copilot"
    binary.parent.mkdir()
    binary.touch(mode=0o755)
    assert native(str(link)) == os.fspath(binary)
    assert native(str(binary)) == str(binary)
