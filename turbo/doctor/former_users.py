"""Directories of other users' programs (`run_as`) that no worker can remove any more: their user was deleted, or may not be used."""

import shlex
from pathlib import Path

from turbo.domain.finding import Finding, ok, warn
from turbo.executors import foreign
from turbo.host.state_dir import all_files, workspaces_of
from turbo.workspaces import files
from turbo.workspaces.record import records

NAMED = 5


def former_users(state_dir: Path) -> Finding:
    """What retention could not remove, and worktrees whose user this host does not have."""
    left = {one.directory: one.user for one in foreign.left_over(state_dir)} | _worktrees(state_dir)
    if not left:
        return ok("no directory of a former run_as is left")
    named = ", ".join(f"{directory} (user {user})" for directory, user in list(left.items())[:NAMED])
    more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
    command = " ".join(shlex.quote(directory) for directory in list(left)[:NAMED])
    return warn(
        f"no worker can remove what programs of another user have left: {named}{more}",
        f"let the worker start programs as that user again, or look what is in there, and as root: rm -rf -- {command}",
    )


def _worktrees(state_dir: Path) -> dict[str, str]:
    found = {}
    for of_database in all_files(state_dir):
        for _, record in records(workspaces_of(of_database)):
            try:
                files.owner_of(record.user)
            except OSError:
                found[str(Path(record.tree).parent)] = record.user
    return found
