"""Accounts of executors in worker.yaml: pools, their rules, and how a mistake is told."""

from pathlib import Path

import pytest

from turbo.config.executors import ClaudeSection
from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config
from turbo.executors.claude.executor import ClaudeExecutor
from turbo.executors.pool import AccountPool
from turbo.executors.registry import build_executors
from turbo.process.journal import Journal

ACCOUNTS = "accounts: {a: {env_file: a.env}, b: {env_file: b.env}, c: {}, d: {}, same: {env_file: a.env}}\n"


def load(tmp_path: Path, text: str) -> WorkerConfig:
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    return load_worker_config(file)


@pytest.mark.parametrize(
    ("executors", "error"),
    [
        ("x: {kind: claude, accounts: [a, nope]}", "executors.x.accounts: no account 'nope'; known: a, b, c, d, same"),
        ("x: {kind: claude, accounts: [a, b, a]}", "executors.x.accounts: names a twice"),
        ("x: {kind: claude, account: a, accounts: [b]}", "executors.x.account: cannot be set together with accounts"),
        ("x: {kind: claude, accounts: [a, same]}", "same is the same login as a: both have env_file a.env"),
        ("x: {kind: claude, accounts: [c, a, d]}", "d is the same login as c: both have no env_file"),
        (
            "x: {kind: claude, accounts: [a, b]}, y: {kind: command, command: [cat], account: b}",
            "b is also the account of executors.y, which is of kind: command; the accounts of a pool are logins of one kind",
        ),
        ("x: {kind: claude, fallback_models: [haiku]}", "executors.x.fallback_models: needs model"),
        ("x: {kind: claude, model: opus, fallback_models: [haiku, opus]}", "fallback_models: names a model twice"),
        (
            "x: {kind: claude, account: a}, y: {kind: codex, cwd: /}, z: {kind: codex, account: a}",
            "executors.z.account: a is also the account of executors.x, which is of kind: claude; an account is one login of one",
        ),
        ("x: {kind: codex, fallback_models: [gpt-5.5]}", "executors.x.fallback_models: needs model"),
        ("x: {kind: claude, accounts: a}", "executors.x.accounts: must be a valid list (found 'a')"),
        (
            "x: {kind: command, command: [cat], accounts: [a]}",
            "executors.x.accounts: unknown key; did you mean 'account'?",
        ),
        (
            "x: {kind: claude, check: {executor: r}, cwd: /}, r: {kind: claude, accounts: [a, b]}",
            "r has several accounts; give a reviewer one account",
        ),
    ],
)
def test_bad_pool_gets_one_clear_error(tmp_path: Path, executors: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"{ACCOUNTS}executors: {{{executors}}}\n")
    assert error in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ("leave_at: 0", "must be greater than 0"),
        ("leave_at: 1.01", "must be less than or equal to 1"),
        ("leave_at: .nan", "finite"),
        ("leave_at: true", "must be a number"),
        ("start_every_seconds: -1", "greater than or equal to 0"),
        ("start_every_seconds: .inf", "finite"),
        ("start_every_seconds: 601", "less than or equal to 600"),
        ("last_resort: perhaps", "valid boolean"),
    ],
)
def test_bad_rule_of_an_account_is_refused(tmp_path: Path, rule: str, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        load(tmp_path, f"accounts: {{a: {{{rule}}}}}\nexecutors: {{x: {{kind: claude, account: a}}}}\n")


def test_one_account_is_no_pool(tmp_path: Path) -> None:
    for how in ("account: a", "accounts: [a]"):
        config = load(tmp_path, f"accounts: {{a: {{}}}}\nexecutors: {{x: {{kind: claude, {how}}}}}\n")
        section = config.executors["x"]
        assert isinstance(section, ClaudeSection)
        assert section.logins == ("a",)
        built = build_executors(config, Journal(tmp_path / "journal"))["x"]
        assert isinstance(built, ClaudeExecutor)
        assert built.account == "a"


def test_pool_has_an_executor_for_each_account(tmp_path: Path) -> None:
    (tmp_path / "a.env").write_text("X=1\n")
    (tmp_path / "a.env").chmod(0o600)
    accounts = f"accounts: {{a: {{env_file: {tmp_path}/a.env}}, b: {{}}}}\n"
    config = load(tmp_path, f"{accounts}executors: {{x: {{kind: claude, accounts: [b, a], command: [sh]}}}}\n")
    pool = build_executors(config, Journal(tmp_path / "journal"))["x"]
    assert isinstance(pool, AccountPool)
    assert [(one.account, one.executor.name, one.executor.account) for one in pool.members] == [
        ("b", "x", "b"),
        ("a", "x", "a"),
    ]
    assert (pool.account, pool.missing(), pool.unusable) == (None, None, {})
    (tmp_path / "a.env").unlink()
    assert pool.missing() is None
    assert "a.env: cannot be read" in pool.unusable["a"]
