"""`sandbox:`: its section, the doors it leaves open, and the text that makes it on each system."""

from pathlib import Path
from typing import Any

import pytest

from turbo.config.worker import ConfigError, WorkerConfig, load_worker_config
from turbo.executors.registry import build_executors
from turbo.executors.sandboxes import build_sandboxes
from turbo.process import bubblewrap, sandbox, seatbelt
from turbo.process.journal import Journal
from turbo.process.places import Access, SandboxPlace, access_to, outer_first

COMMAND = "kind: command, command: [/bin/true]"


def loaded(tmp_path: Path, section: str, more: str = "") -> WorkerConfig:
    file = tmp_path / "worker.yaml"
    file.write_text(f"worker: {{state_dir: {tmp_path}/state}}\n{more}executors:\n  x: {{{section}}}\n")
    return load_worker_config(file)


@pytest.mark.parametrize(
    ("section", "error"),
    [
        (f"{COMMAND}, sandbox: on", "executors.x.sandbox: is a section"),
        (f"{COMMAND}, sandbox: {{netwrok: true}}", "executors.x.sandbox.netwrok: unknown key; did you mean 'network'?"),
        (f"{COMMAND}, sandbox: {{write: [cache]}}", "executors.x.sandbox.write.0: 'cache' must be an absolute path"),
        (f"{COMMAND}, sandbox: {{write: [/a/../etc]}}", "without .."),
        (f"{COMMAND}, sandbox: {{write: [/]}}", "/ is everything"),
        (f"{COMMAND}, sandbox: {{deny_read: [//]}}", "/ is everything"),
        (f"{COMMAND}, sandbox: {{read: [/a], deny_read: [/a/]}}", "/a is to be hidden and to be open"),
        (f"{COMMAND}, sandbox: {{write: [STATE/logs]}}", "belongs to the worker (worker.state_dir), and stays hidden"),
        (f"{COMMAND}, sandbox: {{read: [STATE]}}", "belongs to the worker (worker.state_dir), and stays hidden"),
        ("kind: claude, sandbox: {}", "executors.x.sandbox.network: an agent reaches its model over the network"),
        ("kind: codex, sandbox: {}", "executors.x.sandbox: is empty: an agent reaches its model over the network"),
        ("kind: codex, sandbox: {required: true}", "executors.x.sandbox.network: an agent reaches its model"),
        ("kind: codex, sandbox: {mode: open}", "executors.x.sandbox.mode: must be"),
        ("kind: copilot, sandbox: {}", "executors.x.sandbox.network: an agent reaches its model"),
        ("kind: acp, profile: qwen, sandbox: {}", "executors.x.sandbox.network: an agent reaches its model"),
        ("kind: python, handler: 'turbo.testing:noop', sandbox: {}", "is for isolation: process"),
        ("kind: acp, command: [a], check: {command: [b]}, profile: {name: a, state: [/etc]}", "below HOME"),
    ],
)
def test_bad_sandbox_is_one_clear_error(tmp_path: Path, section: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, section.replace("STATE", f"{tmp_path}/state"))
    (line,) = str(caught.value).splitlines()
    assert error in line


@pytest.mark.parametrize(
    ("section", "doors"),
    [
        (f"{COMMAND}, sandbox: {{}}", []),
        (f"{COMMAND}, sandbox: {{required: false}}", ["sandbox.required"]),
        (f"{COMMAND}, sandbox: {{network: true}}", ["sandbox.network"]),
        (f"{COMMAND}, sandbox: {{write: [~/]}}", ["sandbox.write"]),
        (f"{COMMAND}, sandbox: {{write: [TMP]}}", ["sandbox.write"]),
        (f"{COMMAND}, sandbox: {{write: [~/.cache/pip]}}", []),
        (f"{COMMAND}, sandbox: {{write: [/srv]}}, workspace: {{kind: worktree, repo: /srv/app}}", ["sandbox.write"]),
        (f"{COMMAND}, sandbox: {{write: [/a/.git/x]}}, workspace: {{kind: worktree, repo: /a}}", ["sandbox.write"]),
        (f"{COMMAND}, sandbox: {{read: [~/.npmrc]}}", ["sandbox.read"]),
        ("kind: claude, permission_mode: bypassPermissions", ["permission_mode"]),
        ("kind: claude, command: [claude, --dangerously-skip-permissions]", ["command"]),
        ("kind: claude, permission_mode: bypassPermissions, sandbox: {network: true}", ["sandbox.network"]),
        ("kind: claude, permission_mode: bypassPermissions, run_as: agents", []),
        ("kind: codex, sandbox: danger-full-access", ["sandbox"]),
        ("kind: codex, sandbox: {mode: danger-full-access, network: true}", ["sandbox.network"]),
        ("kind: codex", []),
        ("kind: copilot, any_path: true", ["any_path"]),
        ("kind: acp, profile: qwen, permissions: {execute: allow}", ["permissions.execute"]),
    ],
)
def test_config_check_names_each_open_door(tmp_path: Path, section: str, doors: list[str]) -> None:
    warnings = loaded(tmp_path, section.replace("TMP", str(tmp_path))).warnings()
    assert [finding.subject for finding in warnings] == [f"executors.x.{door}" for door in doors]


def test_reviewer_without_the_sandbox_is_a_door(tmp_path: Path) -> None:
    reviewer = "executors:\n  r: {kind: claude}\n"
    config = "kind: claude, sandbox: {network: true}, check: {executor: r}"
    file = tmp_path / "worker.yaml"
    file.write_text(f"{reviewer}  x: {{{config}}}\n")
    subjects = [finding.subject for finding in load_worker_config(file).warnings()]
    assert subjects == ["executors.x.sandbox.network", "executors.x.check.executor"]


def test_codex_mode_alone_makes_no_sandbox_around_the_cli(tmp_path: Path) -> None:
    assert loaded(tmp_path, "kind: codex, sandbox: read-only").executors["x"].enclosed is None
    both = loaded(tmp_path, "kind: codex, sandbox: {mode: read-only, network: true}").executors["x"]
    assert both.enclosed is not None


def test_every_kind_of_program_starts_with_the_sandbox(tmp_path: Path) -> None:
    """It comes with the journal; what turbo itself runs in a workspace has none."""
    sections = {
        "command": COMMAND,
        "claude": "kind: claude",
        "codex": "kind: codex",
        "copilot": "kind: copilot",
        "acp": "kind: acp, profile: opencode, model: a/b",
        "python": "kind: python, handler: 'turbo.testing:noop', isolation: process",
    }
    file = tmp_path / "worker.yaml"
    lines = [f"  {name}: {{{section}, sandbox: {{network: true}}}}" for name, section in sections.items()]
    file.write_text("executors:\n" + "\n".join(lines) + "\n")
    config = load_worker_config(file)
    sandboxes = build_sandboxes(config)
    executors = build_executors(config, Journal(tmp_path / "journal"), sandboxes=sandboxes)
    for name, executor in executors.items():
        held_by: Any = getattr(executor, "_cli", executor)
        assert held_by._journal.sandbox is sandboxes[name], name


def test_worker_keeps_its_own_files_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/etc/turbo/passfile")
    monkeypatch.setenv("TURBO_DSN", "host=/srv/pg,db.example sslkey=/etc/turbo/key")
    env_file = tmp_path / "a.env"
    env_file.write_text("CLAUDE_CONFIG_DIR=/srv/claude-a\n")
    env_file.chmod(0o600)
    more = f"accounts: {{a: {{env_file: {env_file}}}}}\n"
    section = f"{COMMAND}, sandbox: {{}}}}\n  y: {{kind: claude, account: a, env: {{HOME: /home/y}}"
    rules = build_sandboxes(loaded(tmp_path, section, more), own_files=[Path("/etc/turbo/worker.env")])["x"].rules
    expected = {"/etc/turbo/worker.env", "/etc/turbo/passfile", "/etc/turbo/key", "/srv/pg", f"{tmp_path}/state"}
    assert expected | {str(env_file), f"{tmp_path}/worker.yaml"} <= set(map(str, rules.secrets))
    assert {"/home/y", "/srv/claude-a"} == set(map(str, rules.hidden))


# ── the text ────────────────────────────────────────────────────────────────────────────────────────────────────────

PLACES = [
    SandboxPlace(Path("/tmp"), Access.FRESH),
    SandboxPlace(Path("/home/u/.ssh"), Access.HIDDEN),
    SandboxPlace(Path("/home/u/.netrc"), Access.HIDDEN, directory=False),
    SandboxPlace(Path("/srv/repo/.git/objects"), Access.WRITE),
    SandboxPlace(Path("/srv/repo/.git/hooks"), Access.READ),
]


def test_bubblewrap_mounts_outer_places_first() -> None:
    words = bubblewrap.arguments(PLACES, cwd=Path("/srv/work"), network=False, root=True)
    assert " ".join(words) == (
        "--die-with-parent --unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --cap-drop ALL "
        "--unshare-net --ro-bind / / --dev /dev --proc /proc --ro-bind /proc/sys /proc/sys "
        "--perms 1777 --tmpfs /tmp --perms 0555 --tmpfs /home/u/.ssh --ro-bind /dev/null /home/u/.netrc "
        "--bind /srv/repo/.git/objects /srv/repo/.git/objects --ro-bind /srv/repo/.git/hooks /srv/repo/.git/hooks "
        "--remount-ro /home/u/.ssh --chdir /srv/work --"
    )
    online = bubblewrap.arguments(PLACES, cwd=Path("/srv/work"), network=True, root=False)
    assert "--unshare-net" not in online
    assert "/proc/sys" not in online


def test_seatbelt_profile_allows_and_denies_by_place() -> None:
    lines = seatbelt.profile(PLACES, network=False).splitlines()
    assert lines[:3] == ["(version 1)", "(allow default)", "(deny file-write*)"]
    assert '(deny file-read* file-write* network-outbound (subpath "/home/u/.ssh"))' in lines
    assert '(deny file-read* file-write* network-outbound (literal "/home/u/.netrc"))' in lines
    assert lines.index(
        '(allow file-read* file-write* network-outbound (subpath "/srv/repo/.git/objects"))'
    ) < lines.index('(deny file-write* (subpath "/srv/repo/.git/hooks"))')
    assert "(deny signal (target others))" in lines
    assert lines[-1] == "(deny network*)"
    assert "(deny network*)" not in seatbelt.profile(PLACES, network=True)


def test_seatbelt_profile_quotes_what_a_path_may_hold() -> None:
    """A directory of that name must not become a rule."""
    hostile = SandboxPlace(Path('/srv/a")) (allow file-write* (subpath "/x'), Access.WRITE)
    text = seatbelt.profile([hostile], network=True)
    assert '(subpath "/srv/a\\")) (allow file-write* (subpath \\"/x")' in text
    assert '"/srv/a\\\\b"' in seatbelt.profile([SandboxPlace(Path("/srv/a\\b"), Access.WRITE)], network=True)


def test_deepest_place_decides(tmp_path: Path) -> None:
    access = {tmp_path: Access.WRITE, tmp_path / "a": Access.HIDDEN, tmp_path / "a" / "b": Access.READ}
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert [access_to(tmp_path / name, access) for name in ("x", "a/x", "a/b/x")] == list(access.values())
    assert access_to(Path("/elsewhere"), access) is Access.READ
    backwards = dict(reversed(access.items())) | {tmp_path / "missing": Access.HIDDEN}
    assert [mount.path for mount in outer_first(backwards)] == list(access)


@pytest.mark.parametrize(
    ("stderr", "settings", "told"),
    [
        ("bwrap: No permissions to create new namespace", {}, "in a container, let it create user namespaces"),
        ("bwrap: setting up uid map: Permission denied", {"apparmor_restrict_unprivileged_userns": "1"}, "AppArmor"),
        ("bwrap: Creating new namespace failed", {"unprivileged_userns_clone": "0"}, "unprivileged_userns_clone to 1"),
        ("bwrap: Creating new namespace failed", {"max_user_namespaces": "0"}, "max_user_namespaces above 0"),
        ("/usr/bin/env: unrecognized option '--default-signal=TERM'", {}, "install GNU coreutils 8.31"),
        (
            "bwrap: Can't find source path /x: No such file",
            {},
            "cannot make a sandbox: bwrap: Can't find source path /x",
        ),
    ],
)
def test_why_no_sandbox_can_be_made_is_explained(
    monkeypatch: pytest.MonkeyPatch, stderr: str, settings: dict[str, str], told: str
) -> None:
    monkeypatch.setattr(sandbox, "_setting", lambda name: settings.get(name.rpartition("/")[2]))
    assert told in sandbox.explained(stderr)
