"""`turbo diff`: what a task changed in its worktree: as it is now on the host that has it, as its last run left it on others.

The diff goes to standard output (in a pipe, in a form that `git apply` accepts), everything else to standard error.
"""

import functools
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turbo.cli import output, run_log
from turbo.cli.options import Dsn, Json, TaskId, connect
from turbo.domain.states import TaskState

if TYPE_CHECKING:
    from turbo.client.client import TaskRow
    from turbo.workspaces.record import Record

COLOURS = {b"+": "green", b"-": "red", b"@": "cyan"}


def diff(
    task_id: TaskId,
    stat: Annotated[bool, typer.Option("--stat", help="Show changed files and line counts only.")] = False,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            help="The worker's state directory. [default: as in its configuration, else ~/.local/state/turbo]"
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", "-c", help="The worker's YAML file, for its executor's git_config. [default: TURBO_CONFIG]"
        ),
    ] = None,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """Show what a task changed in its workspace.

    Includes commits, uncommitted edits and new files, from where the task began: a follow-up shares the worktree of its
    conversation. On the host that has the worktree, it shows the files as they are now. On any other host, it shows the
    diff that the last run left in the database, at most 1 MiB of it; without one, it names the host and exits 1.

    \b
    Examples:
      turbo diff my_task_1
      turbo diff my_task_1 | git apply
    """
    from turbo.host.state_dir import files_of, workspaces_of
    from turbo.workspaces.diff import diff_of
    from turbo.workspaces.record import records_of

    with connect(dsn) as client:
        task = client.get(client.resolve(task_id))
        host = client.run(task.task_id).host
        place = files_of(run_log.state_dir(state_dir, config), client.database_id())
        directory_id = client.directory_id(task.task_id)
        stored = functools.partial(_stored, dsn, task.task_id)
    git_configs = _git_configs(config)
    _become_owner_of(place)
    records = records_of(workspaces_of(place), directory_id, lambda _, error: output.notice(f"{error}; ignored"))
    records = [_share(workspaces_of(place), record, task.task_id) for record in records]
    workspace = _workspace_data(task)
    host = host if task.status == TaskState.RUNNING and host else workspace.get("host") or host
    if not records or (host is not None and host != records[0].host):
        if not stat and (kept := stored()) is not None:
            _show_stored(task.task_id, kept, as_json)
            return
        _not_here(task, workspace, host, place, config)
        return
    flags = ["--stat"] if stat else [] if output.at_terminal() else ["--binary"]
    chunks = diff_of(records[0], *flags, config=git_configs.get(records[0].executor))
    if as_json:
        output.print_json(_document(records[0], task.task_id, b"".join(chunks)))
    elif output.at_terminal():
        _coloured(chunks)
    else:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.flush()


def _stored(dsn: str | None, task_id: str) -> bytes | None:
    """The diff that the last run left in the database, if this role may read it."""
    import psycopg

    with connect(dsn) as client:
        try:
            return client.diff(task_id)
        except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedTable):
            return None


def _show_stored(task_id: str, kept: bytes, as_json: bool) -> None:
    output.notice(f"{task_id}: as its last run left it, from the database")
    if as_json:
        output.print_json({"task_id": task_id, "stored": True, "diff": kept.decode("utf-8", "replace")})
    elif output.at_terminal():
        _coloured([kept])
    else:
        sys.stdout.buffer.write(kept)
        sys.stdout.flush()


def _share(root: Path, record: "Record", task_id: str) -> "Record":
    """The record with the start of this task, where that is not the start of the worktree."""
    from turbo.workspaces.names import home_of
    from turbo.workspaces.shares import share_of

    if record.task_id == task_id:
        return record
    return share_of(record, home_of(root, Path(record.repo), record.task_id), task_id) or record


def _git_configs(config: Path | None) -> Mapping[str, Path]:
    """By executor. They name programs, so they come from the operator's file, not from the record, which an agent may write."""
    from turbo.executors.work_areas import workspace_git_configs

    found = run_log.configuration(config)
    return workspace_git_configs(found) if found is not None else {}


def _become_owner_of(place: Path) -> None:
    """root reads what an agent has written with the rights of the state directory's owner, from here on."""
    import pwd

    try:
        state = place.stat()
    except FileNotFoundError:
        return
    if os.geteuid() != 0 or state.st_uid == 0:
        return
    os.setgroups([])
    os.setgid(state.st_gid)
    os.setuid(state.st_uid)
    with suppress(KeyError):
        os.environ["HOME"] = pwd.getpwuid(state.st_uid).pw_dir


def _workspace_data(task: "TaskRow") -> dict[str, Any]:
    """`output_data.workspace` of the last finished run. Users can edit it, so its form is not certain."""
    data = task.output_data if isinstance(task.output_data, dict) else {}
    workspace = data.get("workspace")
    return workspace if isinstance(workspace, dict) else {}


def _not_here(task: "TaskRow", workspace: dict[str, Any], host: str | None, place: Path, config: Path | None) -> None:
    if workspace.get("kept") is False and not workspace.get("files_changed") and not workspace.get("commits"):
        output.notice(f"{task.task_id} changed nothing; its worktree was removed")
        return
    if not workspace and task.status != TaskState.RUNNING:
        why = "it ran without a workspace" if task.finished else f"it is {task.status} and has no workspace yet"
    elif host is None or host == _this_host(config):
        why = f"its workspace is not in {place} on this host: it was removed, or --state-dir is wrong"
    else:
        path = f", in {workspace['path']}" if workspace.get("path") and workspace.get("host") == host else ""
        why = f"its workspace is on host {host}{path}: run `turbo diff {task.task_id}` there"
    output.notice(f"{task.task_id}: {why}")
    raise typer.Exit(1)


def _this_host(config: Path | None) -> str:
    """This machine's name, as its workers report it."""
    from turbo.config.worker import WorkerSection

    found = run_log.configuration(config)
    return (found.worker if found is not None else WorkerSection()).this_host


def _document(record: "Record", task_id: str, text: bytes) -> dict[str, object]:
    return {
        "task_id": task_id,
        "host": record.host,
        "path": record.tree,
        "repo": record.repo,
        "branch": record.branch,
        "base": record.base if record.task_id == task_id else record.start,
        "diff": text.decode("utf-8", "replace"),
    }


def _coloured(chunks: Iterable[bytes]) -> None:
    """For a terminal: coloured, without control characters."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            _line(line)
    if rest:
        _line(rest)


def _line(line: bytes) -> None:
    text = output.visible(line.decode("utf-8", "replace"), lines=True)
    header = line.startswith((b"diff --git ", b"+++ ", b"--- "))
    output.console().print(output.styled(text, "bold" if header else COLOURS.get(line[:1], "")))
