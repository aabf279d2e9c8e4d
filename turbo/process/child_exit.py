"""Learning that a child has exited without collecting it.

An uncollected child is a zombie that keeps its pid and its process group: nothing else can have those numbers, so its
group can still be signalled safely. asyncio's own watchers collect at once.
"""

import asyncio
import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable


def call_at_exit(pid: int, callback: Callable[[], None]) -> None:
    """Have the running loop call `callback` once the child has exited. Raises RuntimeError if no thread can be had.

    A thread in waitid, which every Linux has (pidfd_open is refused by some container profiles); kqueue where Python
    has no waitid (macOS before 3.13; from documentation, not run).
    """
    loop = asyncio.get_running_loop()
    if sys.platform == "darwin" and not hasattr(os, "waitid"):
        _call_by_kqueue(loop, pid, callback)
        return

    def wait() -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback)

    threading.Thread(target=wait, name=f"turbo-wait-{pid}", daemon=True).start()


if sys.platform == "darwin":

    def _call_by_kqueue(loop: asyncio.AbstractEventLoop, pid: int, callback: Callable[[], None]) -> None:
        queue = select.kqueue()

        def exited() -> None:
            loop.remove_reader(queue.fileno())
            queue.close()
            callback()

        exit_of_child = select.kevent(
            pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT
        )
        try:
            queue.control([exit_of_child], 0)
        except ProcessLookupError:  # it is a zombie already
            queue.close()
            loop.call_soon(callback)
            return
        loop.add_reader(queue.fileno(), exited)
