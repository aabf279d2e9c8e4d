"""What a task has done in its worktree, while it still has it (turbo.workspaces.area).

    the files with which it began ◀──compared──▶ the files as they are now, and the commit that is checked out

Nothing here trusts what an agent may have written. Protected files are compared by what is in them (turbo.workspaces.protected);
git only says which of them commits have changed.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from turbo.domain import dependency
from turbo.host.state_dir import safe_name
from turbo.workspaces import files
from turbo.workspaces.area import CannotExamine, WorkDone
from turbo.workspaces.changes import (
    DIFF,
    NEW_FILES,
    PLAIN_DIFF,
    index_copy,
    mark_new_files,
    measure,
    names,
    read_state,
    start_objects,
)
from turbo.workspaces.git import Git, GitFailed, OutputTooLong, Stopped
from turbo.workspaces.own_commits import note_file, note_tips, own_commits
from turbo.workspaces.patterns import MATCHES_PATTERNS, pathspec
from turbo.workspaces.protected import ProtectedList
from turbo.workspaces.record import Record
from turbo.workspaces.repository import Repository, repository_fault

_INDEX = "index.protected"
FILES_LISTED = 200
"""Of a diff that is too long."""


@dataclass(frozen=True, slots=True)
class WorktreeView:
    """`record`: with the start from which the work is judged, and `since` the task that began there: this one, if `own`. `home`: of
    the workspace, which several tasks may have in turn. `fresh`: see `WorkspaceView`."""

    repository: Repository
    record: Record
    home: Path
    since: str
    own: bool
    fresh: bool

    async def note_commits(self, *, begun: bool) -> None:
        """See `WorkspaceView`."""
        if self.own and (self.fresh or not begun):
            try:
                git = self.repository.in_tree(self.record)
                await note_tips(git, self.record, note_file(self.home, self.since))
            except (GitFailed, Stopped) as error:
                raise self._cannot(error) from error

    async def work_done(self) -> WorkDone:
        """See `WorkspaceView`."""
        try:
            git = self.repository.in_tree(self.record)
            changes = await measure(git, self.record, self.home)
            state = await read_state(git)
            commits, on_branch = 0, True
            if changes.commits and changes.head is not None:
                commits = await own_commits(git, self.record, changes.head, note_file(self.home, self.since))
                on_branch = await self._on_branch(git, changes.head)
        except (GitFailed, Stopped) as error:
            raise self._cannot(error) from error
        uncommitted = state.uncommitted if changes.uncommitted else ()
        return WorkDone(commits, changes.files_changed, uncommitted, self.record.branch, on_branch)

    async def _on_branch(self, git: Git, head: str) -> bool:
        """Whether the task's branch has what is checked out. Otherwise nobody would get it who merges the branch."""
        tip = await self.repository.branch_tip(self.record.branch)
        return tip is not None and (tip == head or await git.succeeds("merge-base", "--is-ancestor", head, tip))

    async def protect(self, patterns: Sequence[str], *, begun: bool) -> ProtectedList:
        """See `WorkspaceView`."""
        # Without exemptions: git takes as many characters off an exemption as the other patterns have in common.
        pathspecs = [pathspec(one) for one in patterns if not one.startswith("!")]

        async def said_by_git(worktree_too: bool) -> set[str]:
            try:
                git = self.repository.in_tree(self.record)
                found = await self._committed(git, pathspecs)
                return found | (await self._differing(git, pathspecs) if worktree_too else set())
            except (GitFailed, Stopped) as error:
                raise self._cannot(error) from error

        try:
            git = self.repository.in_tree(self.record)
        except GitFailed as error:
            raise self._cannot(error) from error
        protected = ProtectedList(git, patterns, self.home / f"protected-{safe_name(self.since)}.json", said_by_git)
        await protected.begin(begun=begun or not self.own, fresh=self.fresh)
        return protected

    async def diff(self, most_bytes: int) -> tuple[str, bool]:
        """See `WorkspaceView`."""
        try:
            return await self._diff(self.repository.in_tree(self.record), most_bytes)
        except (GitFailed, Stopped) as error:
            raise self._cannot(error) from error

    async def _diff(self, git: Git, most_bytes: int) -> tuple[str, bool]:
        place = self.home if git.run_as is None else self.record.objects.parent
        async with index_copy(Path(self.record.git_dir), place, git.run_as) as index:
            await mark_new_files(git, self.record, index)

            async def shown(*words: str) -> str:
                return await git(
                    *DIFF,
                    *words,
                    self.record.start_tree or self.record.base,
                    "--",
                    GIT_INDEX_FILE=str(index),
                    GIT_ALTERNATE_OBJECT_DIRECTORIES=start_objects(self.record),
                )

            whole = ""
            with contextlib.suppress(OutputTooLong):
                whole = (await shown()).encode("utf-8", "replace").decode()
                if len(whole.encode()) <= most_bytes:
                    return whole, True
            listed = await shown("--stat=160", f"--stat-count={FILES_LISTED}")
        return _cut(f"{listed}\n{whole}", most_bytes), False

    async def _committed(self, git: Git, pathspecs: Sequence[str]) -> set[str]:
        """What the checked-out commit has otherwise than the task began with."""
        start = self.record.start_tree or self.record.start
        variables = {"GIT_ALTERNATE_OBJECT_DIRECTORIES": start_objects(self.record), **MATCHES_PATTERNS}
        head = (await git("rev-parse", "--verify", "--end-of-options", "HEAD")).strip()
        if head == self.record.start:
            return set()
        # What `setup` changed is in the files with which the task began, and in no commit.
        differ = ("diff-tree", "-r", "--no-renames", "--name-only", "-z")
        committed = [
            set(names(await git(*differ, one, head, "--", *pathspecs, seconds=None, **variables)))
            for one in (start, self.record.start)
        ]
        return set.intersection(*committed)

    async def _differing(self, git: Git, pathspecs: Sequence[str]) -> set[str]:
        """What the worktree has otherwise, as git sees it; of the ignored files nothing. The start is in an index of its own: the
        worktree's can call a changed file unchanged (`git update-index --assume-unchanged`)."""
        start = self.record.start_tree or self.record.start
        place = self.home if git.run_as is None else self.record.objects.parent
        index = place / _INDEX
        variables = {
            "GIT_INDEX_FILE": str(index),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": start_objects(self.record),
            **MATCHES_PATTERNS,
        }

        async def listed(*words: str, stdin: str = "") -> str:
            return await git(*words, seconds=None, stdin=stdin, **variables)

        try:
            await listed("read-tree", start)
            began = await listed("ls-files", "--stage", "-z", "--", *pathspecs)
            # Only the protected files: git reads the content of each file of an index that it has not seen.
            await listed("read-tree", "--empty")
            await listed("update-index", "-z", "--index-info", stdin=began)
            found = set(names(await listed(*PLAIN_DIFF, "--no-renames", "--name-only", "-z")))
            return found.union(names(await listed(*NEW_FILES, "--", *pathspecs)))
        finally:
            await asyncio.to_thread(files.delete, git.run_as, index)

    def _cannot(self, error: GitFailed | Stopped) -> CannotExamine:
        if isinstance(error, GitFailed) and repository_fault(error):
            return CannotExamine(str(error), dependency.repository(Path(self.record.repo)))
        return CannotExamine(str(error) or "it is to end")


def _cut(text: str, most_bytes: int) -> str:
    return text.encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")
