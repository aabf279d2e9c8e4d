"""Learns that a child has exited, without collecting its status.

An uncollected child is a zombie that keeps its pid and its process group. No other process can get those numbers, so
the group can still be signalled safely. asyncio's own child watchers collect at once.
"""

import asyncio
import contextlib
import os
import select
import sys
import threading
from collections.abc import Callable


def call_at_exit(pid: int, callback: Callable[[], None]) -> None:
    """Call `callback` on the running loop once the child has exited. Raises RuntimeError if no thread can be started.

    Uses a thread in waitid, which every Linux has (some container profiles refuse pidfd_open). Uses kqueue where
    Python has no waitid: macOS before 3.13 (written from documentation, not run).
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
        except ProcessLookupError:  # already a zombie
            queue.close()
            loop.call_soon(callback)
            return
        loop.add_reader(queue.fileno(), exited)
