"""What an agent leaves in a repository is not run by turbo's git: each payload writes a file, as plain git shows first."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.repositories import IDENTITY, Workshop, commit, git, repository, told
from turbo.doctor.former_users import former_users
from turbo.domain.outcome import Outcome, OutcomeKind
from turbo.domain.states import Level
from turbo.process.identity import place_below_home
from turbo.workspaces.changes import at_risk
from turbo.workspaces.diff import diff_of
from turbo.workspaces.git import Git, GitFailed
from turbo.workspaces.git_config import data_of, parse
from turbo.workspaces.odd_files import alternates
from turbo.workspaces.record import Policy, Record, load
from turbo.workspaces.repository import open_repository
from turbo.workspaces.sweep import DAY, WorkspaceRetention


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return Workshop(tmp_path, repository(tmp_path / "project"))


def payload(shop: Workshop, name: str, then: str = "cat") -> str:
    return f"touch {shop.path / 'ran'}-{name}; {then}"


def ran(shop: Workshop) -> set[str]:
    """The payloads that were run since the last call."""
    found = set(shop.path.glob("ran-*"))
    for path in found:
        path.unlink()
    return {path.name.removeprefix("ran-") for path in found}


def executing(shop: Workshop) -> str:
    """A configuration in which everything that git does on files and with a remote runs a program."""
    hooks = shop.path / "hooks"
    hooks.mkdir(exist_ok=True)
    for hook in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / hook).write_text(f"#!/bin/sh\n{payload(shop, 'hook')} >/dev/null\n")
        (hooks / hook).chmod(0o755)
    return f"""
[core]
    fsmonitor = {payload(shop, "fsmonitor", "false")!r}
    hooksPath = {hooks}
    sshCommand = "{payload(shop, "ssh", "false")};"
    gitProxy = {payload(shop, "proxy", "false")!r}
[filter "x"]
    clean = "{payload(shop, "clean")}"
    smudge = "{payload(shop, "smudge")}"
[diff]
    external = "{payload(shop, "external", "true")};"
[diff "x"]
    textconv = "{payload(shop, "textconv")} <"
[credential]
    helper = "!{payload(shop, "helper", "false")};"
[remote "origin"]
    uploadpack = "{payload(shop, "uploadpack", "false")};"
[remote "local"]
    url = {shop.path / "remote"}
    uploadpack = "{payload(shop, "uploadpack", "false")};"
[remote "away"]
    url = ssh://127.0.0.1/x
[remote "ext"]
    url = "ext::sh -c {payload(shop, "ext", "false").replace(" ", "% ").replace(";% ", ";")}"
""".replace("'touch", '"touch').replace("false'", 'false"')


ATTRIBUTES = "* filter=x diff=x\n"


def leave(shop: Workshop, where: str) -> None:
    """As an agent does, during a task."""
    file = {"repository": shop.repo / ".git" / "config", "user": shop.path / "home" / ".gitconfig"}.get(where)
    if file is None:
        (shop.path / "included").write_text(executing(shop))
        (shop.repo / ".git" / "config").open("a").write(f"[include]\n\tpath = {shop.path / 'included'}\n")
    else:
        file.open("a").write(executing(shop))
    (shop.repo / ".git" / "info" / "attributes").write_text(ATTRIBUTES)


def plain(tree: Path, *commands: str) -> None:
    """git as anybody runs it there."""
    for command in commands:
        subprocess.run(["git", "-C", tree, *command.split()], env=os.environ | IDENTITY, capture_output=True)


def record_of(shop: Workshop, task: str) -> Record:
    (file,) = shop.state.workspaces.glob(f"*/{task}/record.json")
    record = load(file.parent)
    assert record is not None
    return record


WORK = "echo more >>readme; echo new >new; mkdir -p dir; echo x >dir/new"


@pytest.mark.parametrize("where", ["repository", "user", "include"])
async def test_programs_in_a_configuration_are_not_run(where: str, shop: Workshop) -> None:
    repository(shop.path / "remote")
    first = told(await shop.run("t1", WORK))
    leave(shop, where)
    outcome = await shop.run("t2", WORK, setup=("sh", "-c", "echo s >set-up"))
    assert outcome.kind is OutcomeKind.SUCCEEDED, outcome
    space = told(outcome)
    assert (space["files_changed"], space["uncommitted"]) == (3, 3), "readme, new, dir/new; dir once"
    assert b"+more" in b"".join(diff_of(record_of(shop, "t2")))
    for ref in ("local/main", "away/main", "ext/main"):
        tried = await shop.run("t3", ref=ref, fetch=True)
        found = OutcomeKind.SUCCEEDED if ref == "local/main" else OutcomeKind.UNAVAILABLE
        assert tried.kind is (OutcomeKind.FAILED if where == "include" else found), "an include is not followed"
        await shop.probe(ref=ref, fetch=True)
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    await sweep.once(time.time() + 15 * DAY)
    assert Path(str(first["path"]), "new").exists(), "work that would be lost stays"
    assert ran(shop) == set()
    # The control: plain git runs all of them.
    tree = Path(str(space["path"]))
    plain(tree, "status", "diff", "log -p", "add --all", "stash", "fetch local", "fetch away")
    plain(tree, "-c protocol.ext.allow=always fetch ext")
    assert ran(shop) >= {"fsmonitor", "hook", "clean", "smudge", "external", "textconv", "uploadpack", "ssh", "ext"}


@pytest.mark.parametrize("shape", ["new", "tracked", "submodule"])
async def test_programs_of_a_nested_repository_are_not_run(shape: str, shop: Workshop) -> None:
    config = shop.path / "config"
    config.write_text(executing(shop))
    make = f"""
        git init -q nested; cd nested; echo x >inside; echo '* filter=x diff=x' >.gitattributes; git add .; git commit -qm x
        cat {config} >>.git/config; sleep 0.01; echo y >inside; cd ..
    """
    if shape != "new":
        make += "git -c core.fsmonitor=false add nested 2>/dev/null; git -c core.fsmonitor=false commit -qm nested;"
    if shape == "submodule":
        make += "git submodule absorbgitdirs nested 2>/dev/null;"
    space = told(await shop.run("t1", f"{make} rm -f {shop.path}/ran-*"))
    assert "error" not in space, space
    assert (space["files_changed"], space["uncommitted"]) == (1, 1)
    assert b"+Subproject commit" in b"".join(diff_of(record_of(shop, "t1")))
    repo = await open_repository(Git(shop.repo, dict(os.environ), shop.journal), shop.state.locks)
    risk = await at_risk(repo.in_tree(record_of(shop, "t1")), repo, record_of(shop, "t1"))
    assert "uncommitted" in str(risk), "what is changed inside it counts"
    assert ran(shop) == set()
    plain(Path(str(space["path"])), "add --all", "status")
    assert {"fsmonitor", "clean"} <= ran(shop), "the control: plain git runs them"


@pytest.mark.parametrize("ignore", ["none", "untracked", "all"])
async def test_gitmodules_neither_open_nor_hide_a_nested_repository(ignore: str, shop: Workshop) -> None:
    config = shop.path / "config"
    config.write_text(executing(shop))
    quiet = "git -c core.fsmonitor=false -c diff.ignoreSubmodules=all"
    make = f"""
        git init -q nested; cd nested; echo x >inside; echo '* filter=x diff=x' >.gitattributes; git add .; git commit -qm x
        cd ..; printf '[submodule "nested"]\n\tpath = nested\n\turl = ./nested\n\tignore = {ignore}\n' >.gitmodules
        {quiet} add nested .gitmodules 2>/dev/null; {quiet} commit -qm nested; cd nested
        echo y >>new; git add new; git commit -qm y; cat {config} >>.git/config; sleep 0.01; echo y >inside; cd ..
        rm -f {shop.path}/ran-*
    """
    space = told(await shop.run("t1", make))
    assert "error" not in space, space
    assert (space["files_changed"], space["uncommitted"]) == (2, 1), ".gitmodules, and nested with a commit of its own"
    assert b"+Subproject commit" in b"".join(diff_of(record_of(shop, "t1")))
    repo = await open_repository(Git(shop.repo, dict(os.environ), shop.journal), shop.state.locks)
    assert "uncommitted" in str(await at_risk(repo.in_tree(record_of(shop, "t1")), repo, record_of(shop, "t1")))
    assert ran(shop) == set()
    plain(Path(str(space["path"])), "status --ignore-submodules=none")
    assert "clean" in ran(shop), "the control: plain git runs it"


async def test_nested_repository_in_a_circle_loses_no_result(shop: Workshop) -> None:
    make = """
        git init -q nested; cd nested; echo x >inside; git add .; git commit -qm x; cd ..; git add nested 2>/dev/null
        git commit -qm nested; rm -rf nested/.git; ln -s circle nested/circle; echo 'gitdir: circle' >nested/.git
        cp -r nested new; echo done
    """
    outcome = await shop.run("t1", make)
    assert outcome.output == "done\n"
    assert "cannot be examined: " in str(told(outcome)["error"])
    with contextlib.suppress(GitFailed):
        b"".join(diff_of(record_of(shop, "t1")))
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    assert await sweep.once(time.time() + 15 * DAY) == []


async def test_git_gets_no_secret_of_the_account(shop: Workshop) -> None:
    config = shop.path / "gitconfig"
    config.write_text(f'[filter "x"]\n\tclean = env >>{shop.path}/env; cat\n\tsmudge = env >>{shop.path}/env; cat\n')
    commit(shop.repo, "filtered", **{".gitattributes": "readme filter=x\n"})

    async def agent(tree: Path, _workspace: object) -> Outcome:
        (tree / "readme").write_text("more\n")
        return Outcome.succeeded()

    environment = {**os.environ, "ANTHROPIC_AUTH_TOKEN": "s3cret"}
    outcome = await shop.place(git_config=config).run(shop.task("t1"), environment, agent)
    assert told(outcome)["files_changed"] == 1
    written = (shop.path / "env").read_text()
    assert written.count("GIT_COMMON_DIR=") >= 2, "the file that the operator named is used"
    assert "s3cret" not in written


async def test_program_in_the_worktree_is_not_taken_for_git(shop: Workshop) -> None:
    shop.environment = {"PATH": f":.:{os.environ['PATH']}"}
    script = f"printf '#!/bin/sh\\ntouch {shop.path}/ran-git\\n' >git; chmod +x git"
    assert told(await shop.run("t1", script))["files_changed"] == 1
    assert ran(shop) == set()


async def test_required_filter_is_refused_with_the_remedy(shop: Workshop) -> None:
    """A checkout without it would have other contents. With `git_config` it is run again."""
    commit(shop.repo, "filtered", **{".gitattributes": "*.bin filter=up\n", "a.bin": "x\n"})
    git(shop.repo, "config", "filter.up.smudge", "tr x y")
    git(shop.repo, "config", "filter.up.clean", "tr y x")
    git(shop.repo, "config", "filter.up.required", "true")
    outcome = await shop.run("t1", "cat a.bin")
    assert outcome.kind is OutcomeKind.FAILED
    assert "smudge filter up failed" in str(outcome.error)
    assert "does not use filter.up.smudge" in str(outcome.error)
    assert "workspace.git_config" in str(outcome.error)
    config = shop.path / "gitconfig"
    config.write_text('[filter "up"]\n\tsmudge = tr x y\n\tclean = tr y x\n\trequired = true\n')
    outcome = await shop.run("t1", "cat a.bin", git_config=config)
    assert outcome.output == "y\n"
    assert told(outcome)["files_changed"] == 0


async def test_git_config_is_used_by_the_sweep_and_the_diff_too(shop: Workshop) -> None:
    commit(shop.repo, "filtered", **{".gitattributes": "*.bin filter=up\n", "a.bin": "x\n"})
    for name, value in (("smudge", "tr x y"), ("clean", "tr y x"), ("required", "true")):
        git(shop.repo, "config", f"filter.up.{name}", value)
    config = shop.path / "gitconfig"
    config.write_text('[filter "up"]\n\tsmudge = tr x y\n\tclean = tr y x\n\trequired = true\n')
    told(await shop.run("t1", "sleep 0.01; touch a.bin; git branch other", git_config=config, policy=Policy("always")))
    told(await shop.run("t2", "echo yy >a.bin", git_config=config))
    with pytest.raises(
        GitFailed, match=r"does not use filter\.up\.smudge, filter\.up\.clean .*: see workspace\.git_config"
    ):
        b"".join(diff_of(record_of(shop, "t2")))
    assert b"+xx" in b"".join(diff_of(record_of(shop, "t2"), config=config))

    def sweep(executor: str) -> WorkspaceRetention:
        places = (shop.state.workspaces, shop.state.locks, shop.journal)
        return WorkspaceRetention(*places, {}, git_configs={executor: config})

    os.utime(record_of(shop, "t1").tree + "/a.bin", (1, 1))
    assert await sweep("another").once(time.time() + 15 * DAY) == []
    assert await sweep("shop").once(time.time() + 15 * DAY) == ["t1"]
    assert Path(record_of(shop, "t2").tree, "a.bin").exists()


async def test_missing_credential_helper_is_named(shop: Workshop) -> None:
    git(shop.repo, "remote", "add", "origin", "https://127.0.0.1:9/x")
    git(shop.repo, "config", "credential.helper", "!echo password=geheim")
    outcome = await shop.run("t1", ref="origin/main", fetch=True)
    assert outcome.kind is OutcomeKind.UNAVAILABLE
    assert "does not use credential.helper of git's configuration: see workspace.git_config" in str(outcome.error)
    assert "geheim" not in str(outcome.error)


async def test_data_of_a_configuration_is_kept(shop: Workshop) -> None:
    """What is no program works as before: ignored files, line ends, URLs, the user's safe directories."""
    (shop.path / "home" / ".gitconfig").write_text(
        f'[core]\n\texcludesFile = {shop.path}/ignore\n[url "{shop.path}/"]\n\tinsteadOf = short:\n'
    )
    (shop.path / "ignore").write_text("*.swp\n")
    (shop.repo / ".git" / "info" / "exclude").write_text("*.tmp\n")
    commit(repository(shop.path / "remote"), "newest", readme="newest\n")
    git(shop.repo, "remote", "add", "origin", "short:remote")
    space = told(await shop.run("t1", "cat readme; touch a.swp b.tmp c", ref="origin/main", fetch=True))
    assert space["files_changed"] == 1


@pytest.mark.parametrize(
    "text",
    [
        '[a]\nb = c\n[a "s.t"]\nD=e;x\nf\n[g.H] i = "j # k" l ; m\n',
        '[a]b=c\\\nd\n\tq = "x\\"y\\\\z\\n"\n # [no]\n[x "\\"y\\\\"]\nz = \n',
        "[a]\r\nb = c d  \r\n",
    ],
)
def test_configuration_is_read_as_git_reads_it(text: str, tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_bytes(text.encode())
    listed = subprocess.run(
        ["git", "config", "--file", file, "--list", "-z"], capture_output=True, check=True, text=True
    )
    expected = [entry.partition("\n") for entry in listed.stdout.split("\0") if entry]
    mine = [(".".join(p for p in entry[:3] if p), entry[3]) for entry in parse(file.read_bytes().decode())]
    assert mine == [(name, value if separator else None) for name, separator, value in expected]


def test_only_data_of_a_configuration_is_taken(tmp_path: Path, shop: Workshop) -> None:
    file = tmp_path / "config"
    file.write_text(executing(shop) + '[filter "lfs"]\n\tclean = git-lfs clean -- %f\n\tsmudge = git-lfs smudge; rm\n')
    found = data_of(file)
    assert {(section, key) for section, _, key, _ in found.entries} == {("remote", "url"), ("filter", "clean")}
    assert "core.sshcommand" in found.left_out
    file.write_text("[core]\n" + "\tx\n" * 1_000_000)
    assert data_of(file).entries == (), "too large"


@pytest.mark.parametrize("damage", ["fifo", "huge", "link"])
async def test_odd_index_cannot_hold_up_or_lead_the_worker(damage: str, shop: Workshop) -> None:
    index = "$(git rev-parse --git-dir)/index"
    make: dict[str, str] = {
        "fifo": f"mkfifo {index}", "huge": f"truncate -s 4T {index}", "link": f"ln -s /etc/passwd {index}",
    }  # fmt: skip
    began = time.monotonic()
    patience: Callable[[], float] = lambda: time.monotonic() - began  # noqa: E731
    outcome = await shop.run("t1", f"rm -f {index}; {make[damage]}; echo done")
    assert outcome.output == "done\n"
    assert "error" in told(outcome)
    assert patience() < 30
    assert not list(shop.state.workspaces.glob("*/t1/index.copy"))


COMMON = "$(git rev-parse --git-common-dir)"
WAITED_FOR = {
    ".gitignore": "mkfifo .gitignore",
    ".gitattributes": "mkfifo .gitattributes",
    "below": "mkdir -p a/b; mkfifo a/b/.gitignore",
    "attributes below a tracked directory": "mkdir a; echo x >a/x; git add a; git commit -qm a; echo y >a/x; mkfifo a/.gitattributes",
    "sparse": "truncate -s 1T .gitignore",
    "exclude": f"rm -f {COMMON}/info/exclude; mkdir -p {COMMON}/info; mkfifo {COMMON}/info/exclude",
    "attributes": f"mkdir -p {COMMON}/info; rm -f {COMMON}/info/attributes; mkfifo {COMMON}/info/attributes",
    "a ref": f"branch={COMMON}/$(git symbolic-ref HEAD); rm $branch; mkfifo $branch",
    "the user's own list": "mkdir -p $HOME/.config/git; mkfifo $HOME/.config/git/ignore",
}


@pytest.mark.parametrize("what", WAITED_FOR)
async def test_fifo_that_git_would_read_holds_no_slot(
    what: str, shop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("turbo.workspaces.git.USUAL_SECONDS", 0.2)
    monkeypatch.setattr("turbo.workspaces.diff.USUAL_SECONDS", 0.2)
    began = time.monotonic()
    outcome = await shop.run("t1", f"echo x >>readme; {WAITED_FOR[what]}; echo done")
    assert outcome.output == "done\n"
    assert "is a FIFO, a device, or larger than git should read: remove it" in str(told(outcome)["error"])
    with contextlib.suppress(GitFailed) if what == "a ref" else pytest.raises(GitFailed, match="remove it"):
        b"".join(diff_of(record_of(shop, "t1")))
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("spelling", ["'~/list'", '"~$(id -un)/../$HOME/list"'])
async def test_fifo_named_by_a_configuration_holds_no_slot(shop: Workshop, spelling: str) -> None:
    """`core.excludesFile` is data, so turbo's git uses it from the next task on."""
    await shop.run("t1", f"echo x >>readme; mkfifo ~/list; git config core.excludesFile {spelling}")
    began = time.monotonic()
    outcome = await shop.run("t2", "echo done")
    assert outcome.kind is OutcomeKind.UNAVAILABLE
    assert "/list is a FIFO" in str(outcome.error), "a person has to remove it, or the setting"
    with pytest.raises(GitFailed, match="/list is a FIFO"):
        b"".join(diff_of(record_of(shop, "t1")))
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("spelling", ["list", "./list", "%(prefix)/../tmp/list"])
async def test_list_that_counts_from_elsewhere_is_not_read(shop: Workshop, spelling: str) -> None:
    await shop.run("t1", f"echo x >>readme; mkfifo list; git config core.excludesFile '{spelling}'")
    outcome = await shop.run("t2", "echo done")
    assert (outcome.kind, outcome.output) == (OutcomeKind.SUCCEEDED, "done\n")
    assert b"+x" in b"".join(diff_of(record_of(shop, "t1")))


@pytest.mark.parametrize("quote", [str, '"{}"'.format, lambda path: '"{}"'.format(path.replace("home", "\\150ome"))])
def test_alternates_are_read_as_git_reads_them(tmp_path: Path, quote: Callable[[str], str]) -> None:
    (tmp_path / "objects" / "info").mkdir(parents=True)
    named = tmp_path / "home" / "o"
    (tmp_path / "objects" / "info" / "alternates").write_text(quote(str(named)) + "\n")
    assert alternates(tmp_path / "objects") == [named]


@pytest.mark.parametrize(
    "name", ["pack/pack-0123456789012345678901234567890123456789.idx", "info/commit-graph", "info/alternates"]
)
async def test_fifo_in_objects_elsewhere_holds_no_slot(
    shop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("turbo.workspaces.git.USUAL_SECONDS", 0.2)
    pack = f"touch ~/o/pack/{Path(name).stem}.pack"
    makes = f"mkdir -p ~/o/pack ~/o/info; {pack}; mkfifo ~/o/{name}; echo ~/o >{COMMON}/objects/info/alternates"
    await shop.run("t1", f"echo x >>readme; {makes}")
    began = time.monotonic()
    outcome = await shop.run("t2", "echo done")
    told_of = f"{outcome.error} {(outcome.extra.get('workspace') or {}).get('error')}"  # type: ignore[attr-defined]
    assert f"{name} is a FIFO" in told_of
    assert time.monotonic() - began < 30, "git alone waits for a minute"


async def test_worktree_of_a_deleted_user_is_named_by_the_doctor(shop: Workshop) -> None:
    """No worker can sweep it."""
    await shop.run("t1", WORK)
    record = record_of(shop, "t1")
    (home,) = shop.state.workspaces.glob("*/t1")
    place = shop.path / "former" / place_below_home(home)
    replace(record, user="nosuch", tree=str(place / "project")).save(home)
    finding = former_users(shop.state.root)
    assert finding.level is Level.WARN
    assert f"{place} (user nosuch)" in finding.what
    sweep = WorkspaceRetention(shop.state.workspaces, shop.state.locks, shop.journal, {})
    assert await sweep.once(time.time() + 30 * DAY) == []
    assert load(home) is not None
