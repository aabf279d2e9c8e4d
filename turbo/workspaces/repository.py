"""A person's repository, and the little that turbo does in it: create and remove a branch and a worktree.

Never touched: HEAD, the index and the files of the checkout, and every branch that turbo did not create for the task.

    [fetch] ──▶ ref → commit ──▶ branch made (must not exist) ──▶ worktree, empty ──▶ files checked out
    └──────────── one at a time in a repository, on this host ────────────────┘       └── in parallel ──┘

git's own locks protect refs and objects. But `git worktree add` and `git branch` read the list of worktrees, and fail
while another process adds one (git 2.39: "failed to read .../commondir"). So turbo locks that part, which takes about
20 ms; a checkout of minutes blocks no other task. A person's own `git worktree add` may still come in between, so
this failure is tried again.
"""

import asyncio
import errno
import os
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from turbo.domain.run import StopSignal
from turbo.host.atomic_file import write_atomically
from turbo.host.file_lock import FileLock
from turbo.host.regular_file import read_regular
from turbo.workspaces import files
from turbo.workspaces.git import (
    PROTOCOLS,
    SECONDS,
    SSH_VARIABLES,
    Git,
    GitFailed,
    InTheWay,
    RemoteAway,
    RepositoryAway,
    Stopped,
)
from turbo.workspaces.isolation import NotARepository, git_dirs, isolate
from turbo.workspaces.names import digest_of, ref_problem
from turbo.workspaces.odd_files import OddFile, Places
from turbo.workspaces.record import Record

FETCH_SECONDS = 300.0
REMOTE_SECONDS = 30.0
"""For a remote to say what it has."""

CHECKOUT_SECONDS = 900.0

PUSH_SECONDS = 120.0
"""The result of the run waits for it."""

SLOW_SECONDS = 10.0
REST_SECONDS = 60.0
"""A remote that took SLOW_SECONDS to fail is left alone for so long: not every task waits for it."""

LOCK_POLL_SECONDS = (0.01, 0.03)
TRIES = 6
NOTE_BYTES = 65536

_HALF_MADE = re.compile(r"failed to read \S*commondir")
_NO_SUCH_REF = "couldn't find remote ref"
_BY_SSH = "Could not read from remote repository"
_NOT_OURS = re.compile(r"\[rejected\]|non-fast-forward|fetch first|stale info")
"""In a failed push: the remote has commits that this branch has not."""

RECEIVE_PACK = (
    "git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.alternateRefsCommand=true -c receive.autogc=false"
    " -c receive.denyCurrentBranch=refuse receive-pack"
)
"""For a remote that is a directory of this host: an agent may have made it, with hooks and settings that name programs."""

_ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[^/]+:")
"""An address of another host, or one that only its protocol can read (git-clone(1), GIT URLS)."""

_LOCKED = re.compile(r"cannot lock ref|Unable to create '[^']*\.lock'|unable to (write|create)|object file|packfile")
"""In a failed fetch: it is the repository that cannot take what the remote sent."""

_TAKEN = re.compile(r"already exists|' exists|already checked out|is already used by worktree")
"""In a failed change: the task's own branch or directory is in the way."""

_FAULT = re.compile(
    r"unable to read (tree|sha1 file)|bad (object|tree object)|object file \S+ is empty|loose object \S+ .*is corrupt"
    r"|invalid object|missing (blob|tree|object)|not a git repository|bad config|was ended after"
    r"|Read-only file system|Input/output error|Stale file handle|Permission denied"
)
_COMMIT = re.compile(r"[0-9a-f]{40,64}")


@dataclass(frozen=True, slots=True)
class Repository:
    """`git` runs in its top directory; `common` is its .git, links resolved."""

    git: Git
    common: Path
    lock: Path

    def in_tree(self, record: Record) -> Git:
        """git in a worktree of the repository. Raises GitFailed if the record names a git directory elsewhere."""
        return replace(self.git, where=Path(record.tree), git_dir=self.git_dir_of(record))

    def git_dir_of(self, record: Record) -> Path:
        """The worktree's own git directory. Raises GitFailed, as `in_tree`."""
        own = Path(record.git_dir)
        if own.parent != self.common / "worktrees":
            raise GitFailed(f"the record of {record.tree} names {own}, which is not in {self.common / 'worktrees'}")
        return own

    def with_stop(self, stop: StopSignal) -> "Repository":
        """The same repository, for steps that another stop signal ends."""
        return replace(self, git=replace(self.git, stop=stop))

    # ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def commit_of(self, ref: str) -> str:
        """The commit of a ref. Raises GitFailed if there is none, RepositoryAway if the repository has lost it."""
        problem = ref_problem(ref)
        if problem is not None:
            raise GitFailed(f"the ref {ref!r:.200} {problem}")
        try:
            found = await self.git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
        except InTheWay as error:
            raise RepositoryAway(str(error)) from None
        except GitFailed:
            if await self._lost(ref):
                raise RepositoryAway(
                    f"{self.git.where} has {ref!r:.200}, but not its commit: run git fsck there"
                ) from None
            raise GitFailed(
                f"{self.git.where} has no commit named {ref!r:.200} (run git fetch, or set fetch: true)"
            ) from None
        commit = found.strip()
        if not _COMMIT.fullmatch(commit):
            raise GitFailed(f"{self.git.where}: git gives no commit for {ref!r:.200}")
        return commit

    async def _lost(self, ref: str) -> bool:
        """Whether the ref exists, and its object does not."""
        if _COMMIT.fullmatch(ref) or not await self.git.succeeds("rev-parse", "--verify", "--quiet", ref):
            return False
        return not await self.git.succeeds("cat-file", "-t", ref)

    async def has(self, commit: str) -> bool:
        """Whether it has this commit, by its full name."""
        return await self.git.succeeds("cat-file", "-e", f"{commit}^{{commit}}")

    async def contains(self, commit: str, other: str) -> bool:
        """Whether `other` is `commit`, or one of those before it. Both by their full names."""
        return commit == other or await self.git.succeeds("merge-base", "--is-ancestor", other, commit)

    async def branch_tip(self, branch: str) -> str | None:
        """The commit of a local branch; None if there is no such branch."""
        listed = await self.git("for-each-ref", "--format=%(refname) %(objectname)", "--", f"refs/heads/{branch}")
        tips = dict(line.partition(" ")[::2] for line in listed.splitlines())
        return tips.get(f"refs/heads/{branch}")

    async def held_elsewhere(self, commit: str, branch: str) -> bool:
        """Whether another branch, a remote's branch or a tag contains the commit."""
        where = ("refs/heads", "refs/remotes", "refs/tags")
        listed = await self.git("for-each-ref", f"--contains={commit}", "--count=2", "--format=%(refname)", *where)
        return any(name != f"refs/heads/{branch}" for name in listed.splitlines())

    # ── changing ────────────────────────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """One process at a time in this repository, on this host. Raises Stopped, OSError."""
        lock = FileLock(self.lock)
        try:
            while not lock.take():
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(*LOCK_POLL_SECONDS)):
                        await self.git.stop.wait()
                if self.git.stop.is_set():
                    raise Stopped
            yield
        finally:
            lock.release()

    async def fetch(self, ref: str, requested_at: float) -> None:
        """Bring one remote-tracking branch up to date, and nothing else, whatever refspecs are configured.

        Within `alone`. A ref that is not a remote's branch is left as it is. Of the tasks that wait for each other, those
        that asked before a fetch began need none of their own (`requested_at`, Unix seconds). If it failed, so do they: an
        unreachable remote may take minutes to say so. Raises RemoteAway, RepositoryAway; GitFailed if it has no such
        branch.
        """
        remote = await self.remote_of(ref)
        if remote is None or _since(self._stamp(ref, "fetched"), requested_at):
            return
        unreached = self._stamp(remote, "unreached")
        if _since(unreached, requested_at):
            raise RemoteAway(read_regular(unreached, NOTE_BYTES).decode("utf-8", "replace"))
        branch = ref.removeprefix(f"{remote}/")
        began = time.time()
        flags = ("--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=")
        spec = f"+refs/heads/{branch}:refs/remotes/{remote}/{branch}"
        try:
            await self.git("fetch", *flags, "--end-of-options", remote, spec, seconds=FETCH_SECONDS)
        except GitFailed as failed:
            if _NO_SUCH_REF in str(failed):
                raise
            error = self._with_unread(failed)
            if _LOCKED.search(str(error)):
                raise RepositoryAway(str(error)) from None
            _mark(unreached, began, str(error))
            raise RemoteAway(str(error)) from None
        _mark(self._stamp(ref, "fetched"), began)

    @staticmethod
    def is_missing(error: GitFailed) -> bool:
        """Whether a fetch has failed because the remote has no such branch."""
        return _NO_SUCH_REF in str(error)

    async def push(self, remote: str, branch: str, known: str) -> None:
        """Push one branch to the branch of that name, and nothing else. `known`: the commit that was pushed from here last, or "": only
        that one may be replaced by a branch which does not contain it. No hook is run.

        Raises RemoteAway, GitFailed, Stopped, OSError."""
        unreached = self._stamp(remote, "unpushed")
        if _since(unreached, time.time() - REST_SECONDS):
            raise RemoteAway(f"not tried: {read_regular(unreached, NOTE_BYTES).decode('utf-8', 'replace')}")
        began = time.time()
        try:
            await self._push(remote, branch)
        except GitFailed as failed:
            refused = bool(_NOT_OURS.search(str(failed)))
            if refused and known:
                with suppress(GitFailed):
                    await self._push(remote, branch, f"--force-with-lease=refs/heads/{branch}:{known}")
                    return
            if refused:
                raise GitFailed(
                    f"{remote} has commits on {branch} that are not this task's, and nothing there is overwritten: fetch and merge them"
                ) from None
            error = self._with_unread(failed)
            if time.time() - began > SLOW_SECONDS:
                _mark(unreached, time.time(), str(error))
            raise RemoteAway(str(error)) from None

    async def _push(self, remote: str, branch: str, *flags: str) -> None:
        """An agent may have written the addresses: several of them, or others a moment later. So the hooks and settings of a directory
        of this host are never used: either receive-pack goes without them, or git may not push to a directory at all."""
        own: tuple[str, ...] = ()
        protocols = {}
        if self.git.run_as is None:
            if await self._is_elsewhere(remote):
                allowed = self.git.environment.get("GIT_ALLOW_PROTOCOL", PROTOCOLS)
                kept = [one for one in allowed.split(":") if one != "file"]
                protocols = {"GIT_ALLOW_PROTOCOL": ":".join(kept)}
            else:
                own = (f"--receive-pack={RECEIVE_PACK}",)
        always = ("--quiet", "--no-verify", "--recurse-submodules=no", "--no-follow-tags", "--no-signed")
        name = f"refs/heads/{branch}"
        arguments = (*always, *own, *flags, "--end-of-options", remote, f"{name}:{name}")
        await self.git("push", *arguments, seconds=PUSH_SECONDS, **protocols)

    async def _is_elsewhere(self, remote: str) -> bool:
        """Whether its addresses are other hosts': git pushes to all of them. Raises GitFailed if only some are."""
        urls = [
            url.strip() for url in (await self.git("remote", "get-url", "--push", "--all", "--", remote)).splitlines()
        ]
        elsewhere = [not url.startswith("file://") and bool(_ELSEWHERE.match(url)) for url in urls]
        if len(set(elsewhere)) > 1:
            raise GitFailed(
                f"{remote} has addresses on this host and on others: give them remotes of their own (git config --get-all "
                f"remote.{remote}.pushurl lists them)"
            )
        return all(elsewhere)

    async def require_remote(self, remote: str, remedy: str) -> None:
        """Raises RepositoryAway if there is no remote of that name, with what to do."""
        try:
            remotes = (await self.git("remote")).splitlines()
        except GitFailed as error:
            raise RepositoryAway(str(error)) from None
        if remote not in remotes:
            known = ", ".join(remotes[:5]) or "none"
            raise RepositoryAway(f"{self.git.where} has no remote named {remote!r} (it has: {known}): {remedy}")

    async def remote_of(self, ref: str) -> str | None:
        """The remote whose branch a ref names; None if it names none. Raises RepositoryAway."""
        try:
            remotes = (await self.git("remote")).split()
        except GitFailed as error:
            raise RepositoryAway(str(error)) from None
        return next((remote for remote in remotes if ref.startswith(f"{remote}/")), None)

    def _stamp(self, what: str, event: str) -> Path:
        return self.lock.with_suffix(f".{digest_of(Path(what))[:8]}.{event}")

    # ── probing ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def probe_remote(self, remote: str) -> None:
        """Ask a remote for its HEAD. Raises RemoteAway."""
        try:
            await self.git("ls-remote", "--quiet", "--end-of-options", remote, "HEAD", seconds=REMOTE_SECONDS)
        except GitFailed as error:
            raise RemoteAway(str(self._with_unread(error))) from None

    def _with_unread(self, error: GitFailed) -> GitFailed:
        """With the settings that a remote may need and git did not get."""
        isolated = self.git.isolated
        if isolated is None or self.git.config is not None:
            return error
        unread = isolated.settings.unread_for("remote")
        if (
            isolated.ssh_config
            and _BY_SSH in str(error)
            and not any(name in self.git.environment for name in SSH_VARIABLES)
        ):
            unread += " (turbo's git does not use ~/.ssh/config: see GIT_SSH_COMMAND in docs/workspaces.md)"
        return GitFailed(f"{error}{unread}")

    async def probe(self, ref: str, tree: Path) -> None:
        """Do what each task does: lock a new branch, and add a worktree. Nothing is left of either. Within `alone`.

        `tree`: where the worktree may be for a moment. Raises RepositoryAway.
        """
        commit = await self._commit_or_none(ref) or await self._commit_or_none("HEAD")
        if commit is None:  # without a commit, tasks fail by themselves
            return
        await self.remove(tree)
        transaction = f"start\ncreate refs/heads/turbo/probe/{os.getpid()} {commit}\nprepare\nabort\n"
        try:
            await self.git("update-ref", "--stdin", stdin=transaction)
            await self._add_worktree("--detach", "--", str(tree), commit)
        except GitFailed as error:
            raise RepositoryAway(str(error)) from None
        finally:
            await self.remove(tree)

    async def _commit_or_none(self, ref: str) -> str | None:
        try:
            return await self.commit_of(ref)
        except RepositoryAway:
            raise
        except GitFailed:
            return None

    # ── the task's branch and worktree ──────────────────────────────────────────────────────────────────────────────

    async def add(self, tree: Path, branch: str) -> Path:
        """A worktree without files, on an existing branch. Within `alone`. Returns its own git directory.

        Raises RepositoryAway, or GitFailed if the branch is in use."""
        await files.make_directory(self.git.run_as, tree.parent)
        await self._add_worktree("--", str(tree), branch)
        if self.git.isolated is None:
            made = Git(tree, self.git.environment, self.git.journal, run_as=self.git.run_as)
            return Path((await made("rev-parse", "--absolute-git-dir")).strip())
        pointer = tree / ".git"
        own = self.common / "worktrees" / Path(os.fsdecode(read_regular(pointer, NOTE_BYTES)).strip()).name
        pointer.write_text(f"gitdir: {own}\n", encoding="utf-8", errors="surrogateescape")  # not by way of `isolated`
        return own

    async def _add_worktree(self, *arguments: str) -> None:
        if self.git.isolated is not None:
            try:
                (self.common / "worktrees").mkdir(exist_ok=True)
            except OSError as error:
                raise RepositoryAway(f"{self.common / 'worktrees'}: {error.strerror}") from None
        await self._change("worktree", "add", "--quiet", "--no-checkout", *arguments)

    async def make_branch(self, branch: str, commit: str) -> None:
        """Raises GitFailed if a branch of that name exists: it is not ours. Raises RepositoryAway."""
        if not await self.git.succeeds("check-ref-format", "--branch", branch):
            raise GitFailed(f"git does not accept {branch!r:.200} as a branch name")
        try:
            await self._change("branch", "--no-track", "--", branch, commit)
        except GitFailed as error:
            if "already exists" in str(error):
                raise GitFailed(branch_exists(branch, self.git.where)) from None
            raise

    async def remove(self, tree: Path) -> None:
        """Remove the entry of a worktree whose files are gone. May be called twice. Within `alone`.

        Never `git worktree prune`: that would also remove a person's worktrees on a drive that is not mounted.
        """
        with suppress(GitFailed):  # it has no entry
            await self._change("worktree", "remove", "--force", "--force", "--", str(tree))

    async def delete_branch(self, branch: str, base: str) -> bool:
        """Delete the task's branch, unless it has commits that no other branch has. False: it still exists."""
        tip = await self.branch_tip(branch)
        if tip is None:
            return True
        if tip != base and not await self.held_elsewhere(tip, branch):
            return False
        # Not update-ref: `git branch` refuses while the branch is checked out elsewhere.
        try:
            await self._change("branch", "--quiet", "-D", "--", branch)
        except GitFailed:
            return False
        return True

    async def _change(self, *arguments: str, seconds: float = SECONDS) -> None:
        """Run a command that reads the list of worktrees; again, while another process adds one."""
        for left in reversed(range(TRIES)):
            try:
                await self.git(*arguments, seconds=seconds)
                return
            except GitFailed as error:
                if not left or not _HALF_MADE.search(str(error)):
                    if _TAKEN.search(str(error)):
                        raise
                    raise RepositoryAway(str(error)) from None
                await _pause()


async def open_repository(git: Git, locks: Path) -> Repository:
    """The repository whose top directory is `git.where`, bare and shallow ones included. Raises RepositoryAway, OSError.

    Its git uses nothing of the repository's configuration but data (turbo.workspaces.isolation). With `run_as` it uses all of it:
    git then has the rights of the agent's user, and no more.
    """
    if git.run_as is not None:
        return await _open_theirs(git, locks)
    if not git.where.is_dir():
        raise RepositoryAway(f"repo {git.where} is not a directory on this host")
    try:
        dirs = git_dirs(git.where)
    except NotARepository:
        raise RepositoryAway(f"repo {git.where} is not a git repository (name its top directory)") from None
    except OSError as error:
        raise RepositoryAway(f"repo {git.where}: {error}") from None
    lock = locks / f"repository-{digest_of(dirs.common)}.lock"
    config = git.config or (Path(named) if (named := git.environment.get("GIT_CONFIG_GLOBAL")) else None)
    place = lock.with_suffix(f".{digest_of(config)[:8]}.git" if config else ".git")
    try:
        isolated = isolate(place, dirs, git.environment.get("HOME"), config)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RepositoryAway(f"{place}: {error}") from None
    git = replace(git, isolated=isolated)
    try:
        Places(git.where, git.environment, dirs.own, isolated).refuse_known()
    except OddFile as error:
        raise RepositoryAway(f"repo {git.where}: {error}") from None
    try:
        # Whether git accepts its owner (safe.directory) and its format. It reads the configuration, and runs nothing.
        await replace(git, isolated=None, config=git.global_config)("rev-parse", "--git-common-dir")
    except GitFailed as error:
        raise RepositoryAway(str(error)) from None
    return Repository(replace(git, git_dir=dirs.own), dirs.common, lock)


async def _open_theirs(git: Git, locks: Path) -> Repository:
    """One that belongs to another user: its directories may be closed to this process."""
    try:
        await asyncio.to_thread(Places(git.where, git.environment, user=git.run_as).refuse_known_of_user)
    except OddFile as error:
        raise RepositoryAway(f"repo {git.where}: {error}") from None
    try:
        common = (await git("rev-parse", "--path-format=absolute", "--git-common-dir")).strip()
    except GitFailed as error:
        if "not a git repository" not in str(error):
            raise RepositoryAway(str(error)) from None
        raise RepositoryAway(f"repo {git.where} is not a git repository (name its top directory)") from None
    return Repository(git, Path(common), locks / f"repository-{digest_of(Path(os.path.realpath(common)))}.lock")


def repository_fault(error: GitFailed) -> bool:
    """Whether the cause is the repository, not what the task wants of it: damage, a disk that fails, no answer in time."""
    return isinstance(error, RepositoryAway) or bool(_FAULT.search(str(error)))


def _since(stamp: Path, moment: float) -> bool:
    try:
        return stamp.stat().st_mtime >= moment
    except OSError:
        return False


def _mark(stamp: Path, began: float, text: str = "") -> None:
    write_atomically(stamp, text)
    os.utime(stamp, (began, began))


async def _pause() -> None:
    await asyncio.sleep(random.uniform(0.05, 0.2))


def branch_exists(branch: str, repo: Path) -> str:
    return (
        f"the branch {branch} already exists in {repo}, but is not this task's workspace on this host: "
        "rename or delete it, or change `branch`"
    )
