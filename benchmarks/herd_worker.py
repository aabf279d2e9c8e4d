"""Some idle workers in one process, for the herd: `python -m benchmarks.herd_worker DSN NUMBER COUNT`.

Each is turbo's listener, claimer and statements as the tests' rig wires them, one slot, a run that ends at once. Says `ran ID NS`
for each run; at each line on stdin `counted CLAIMS POLLS`, what its workers sent since the last one.
"""

import asyncio
import contextlib
import os
import sys

from tests.support.rig import Rig
from turbo.db.claim_store import ClaimStore


async def run(dsn: str, number: int, count: int) -> None:
    counts = {"claim": 0, "poll": 0}
    count_statements(counts)
    done: set[asyncio.Task[None]] = set()
    async with contextlib.AsyncExitStack() as stack:
        for index in range(count):
            rig = Rig(dsn, name=f"herd{number}-{index}", slots_size=1, poll_seconds=30)
            await stack.enter_async_context(rig)
            for lane in rig.lanes:
                lane.prepare_statements(True)

            async def work(rig: Rig = rig) -> None:
                while True:
                    task, at = await rig.started.get()
                    os.write(1, f"ran {task.task_id} {int(at * 1e9)}\n".encode())
                    await rig.finish(task)

            done.add(asyncio.create_task(work()))
        await asyncio.sleep(0.5)
        os.write(1, b"ready\n")
        while await asyncio.to_thread(sys.stdin.readline):
            os.write(1, f"counted {counts['claim']} {counts['poll']}\n".encode())
            counts.update(claim=0, poll=0)
        for task in done:
            task.cancel()


def count_statements(counts: dict[str, int]) -> None:
    """Count the claims and polls that go to the database."""
    for name in counts:
        plain = getattr(ClaimStore, name)

        def counting(
            self: ClaimStore, *arguments: object, _plain: object = plain, _name: str = name, **named: object
        ) -> object:
            counts[_name] += 1
            return _plain(self, *arguments, **named)  # type: ignore[operator]

        setattr(ClaimStore, name, counting)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
