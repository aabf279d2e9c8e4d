"""Which account has a conversation: kept beside the logs of its first task on this host, where the sessions of its agent are, too.

A service has the beginning of a conversation in its cache for the account that sent it. Without the file nothing fails: the
conversation goes on with any account.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from turbo.domain.task import Task
from turbo.host import json_file
from turbo.host.atomic_file import write_atomically

log = logging.getLogger(__name__)

NAME = "account.json"
_MOST_BYTES = 64 * 1024


class KeptAccounts:
    """`directory`: of the logs of a task (turbo.host.state_dir). Its methods read and write files, so call them in a thread."""

    def __init__(self, directory: Callable[[str], Path]) -> None:
        self._directory = directory

    def of(self, executor: str, task: Task) -> str | None:
        """The account that ran the task's conversation last, through this executor. None: not known."""
        account = self._read(task).get(executor)
        return account if isinstance(account, str) else None

    def keep(self, executor: str, task: Task, account: str) -> None:
        """From now on it is this one."""
        path = self._path(task)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, json.dumps({**self._read(task), executor: account}))
        except OSError as error:
            log.debug("cannot note the account of a conversation: %s", error, extra={"task": task.task_id})

    def _read(self, task: Task) -> dict[str, object]:
        try:
            return json_file.read(self._path(task), _MOST_BYTES)
        except (OSError, ValueError):
            return {}

    def _path(self, task: Task) -> Path:
        return self._directory(task.directory_id) / NAME
