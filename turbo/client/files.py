"""The files that runs left, as any host can read them."""

from dataclasses import dataclass
from datetime import datetime

from turbo.client.operations import Query, Steps


@dataclass(frozen=True, slots=True)
class StoredFile:
    """`path`: below the directory where the agent worked, as the agent named it: hostile text. `size` in bytes; `sha256` in hex."""

    fencing_token: int
    path: str
    size: int
    sha256: str
    at: datetime


def files(task_id: str) -> Steps[list[StoredFile]]:
    return [StoredFile(**row) for row in (yield Query("client/files", {"task_id": task_id})).rows]


def file(task_id: str, path: str) -> Steps[bytes | None]:
    there = next((one for one in (yield from files(task_id)) if one.path == path), None)
    if there is None:
        return None
    parameters = {"task_id": task_id, "token": there.fencing_token, "path": path}
    found = (yield Query("client/file", parameters)).rows
    return bytes(found[0]["bytes"]) if found else None
