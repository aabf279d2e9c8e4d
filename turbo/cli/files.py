"""`turbo files`: the files that a task's last run left, from any host.

Paths and content come from an agent: a path is never used as one here, but for its base name.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, Json, TaskId, connect
from turbo.cli.output import Column

if TYPE_CHECKING:
    from turbo.client.client import StoredFile

COLUMNS = (Column("PATH", flexible=True, least=20), Column("BYTES", right=True), Column("SHA256"))


def files(
    task_id: TaskId,
    get: Annotated[
        str | None, typer.Option("--get", metavar="PATH", help="Write this file, under its base name.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", "-o", metavar="NAME", help="Another name for it; - is standard output.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file of that name.")] = False,
    as_json: Json = False,
    dsn: Dsn = None,
) -> None:
    """List the files that a task's last run left, or get one.

    An executor keeps what its `files` names. The diff of a workspace is .turbo/diff.patch.

    \b
    Examples:
      turbo files my_task_1
      turbo files my_task_1 --get report/index.html
      turbo files my_task_1 --get coverage.xml -o - | head
    """
    if get is None and (to is not None or force):
        raise typer.BadParameter("--to and --force are for --get PATH")
    with connect(dsn) as client:
        task = client.resolve(task_id)
        if get is None:
            _list(task, client.files(task), as_json)
            return
        content = client.file(task, get)
    if content is None:
        output.notice(f"{task} has no file {get!r}: see turbo files {task}")
        raise typer.Exit(1)
    if to == "-":
        _print(content)
    else:
        _write(to or _base_name(get), content, force=force)


def _list(task: str, found: "list[StoredFile]", as_json: bool) -> None:
    if as_json:
        output.print_json([output.columns(one) for one in found])
    elif found:
        output.table(COLUMNS, [(one.path, one.size, one.sha256[:12]) for one in found])
    else:
        output.notice(f"{task} has no files")


def _base_name(path: str) -> str:
    name = path.rsplit("/", 1)[-1]
    if name in ("", ".", "..") or not name.isprintable():
        raise typer.BadParameter("this path has no base name that is safe to write: name the file with --to")
    return name


def _print(content: bytes) -> None:
    """A terminal gets text without control characters, a pipe gets all as it is."""
    if output.at_terminal():
        output.echo_lines(output.visible(content.decode("utf-8", "replace"), lines=True))
        return
    sys.stdout.buffer.write(content)
    sys.stdout.flush()


def _write(name: str, content: bytes, *, force: bool) -> None:
    """Never through a link: what is there is replaced as a whole, and only with --force."""
    target = Path(name)
    if force and (target.is_symlink() or target.is_file()):
        target.unlink()
    try:
        opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise typer.BadParameter(f"{name} is there already: use --force, or another name with --to") from None
    with os.fdopen(opened, "wb") as file:
        file.write(content)
    output.notice(f"wrote {len(content)} bytes to {name}")
