"""Services start, stop, report their defects, and signal what they did."""

import asyncio

from turbo.runtime.service import Jobs, LoopService
from turbo.runtime.signal import Signal


class Ticker(LoopService):
    name = "ticker"

    def __init__(self, defect: Exception | None = None) -> None:
        super().__init__()
        self.defect = defect
        self.ended = False

    async def run(self) -> None:
        self.started.set()
        try:
            if self.defect is not None:
                raise self.defect
            await asyncio.Event().wait()
        finally:
            self.ended = True


def ignore(_name: str, _error: BaseException) -> None: ...


async def test_service_starts_and_stops_twice_and_before_start() -> None:
    ticker = Ticker()
    await ticker.stop()
    ticker.start(ignore)
    await asyncio.wait_for(ticker.started.wait(), 5)
    await ticker.stop()
    await ticker.stop()
    assert ticker.ended


async def test_defect_of_a_service_is_reported_by_name() -> None:
    reported: asyncio.Queue[tuple[str, BaseException]] = asyncio.Queue()
    defect = RuntimeError("a defect")
    Ticker(defect).start(lambda name, error: reported.put_nowait((name, error)))
    assert await asyncio.wait_for(reported.get(), 5) == ("ticker", defect)


async def test_job_is_reported_to_its_service_and_ends_with_it() -> None:
    reported: asyncio.Queue[str] = asyncio.Queue()
    ticker = Ticker()
    ticker.start(lambda name, _error: reported.put_nowait(name))

    async def fail() -> None:
        raise RuntimeError

    ticker.jobs.start(fail(), "a job")
    assert await asyncio.wait_for(reported.get(), 5) == "a job"
    endless = ticker.jobs.start(asyncio.sleep(3600), "an endless job")
    await ticker.stop()
    assert endless.cancelled()


async def test_jobs_say_whether_all_have_ended() -> None:
    jobs, gate = Jobs(ignore), asyncio.Event()
    jobs.start(gate.wait(), "waits")
    assert not await jobs.ended(0.01)
    gate.set()
    assert await jobs.ended(5)


async def test_signal_reaches_its_watchers_only_while_they_watch() -> None:
    signal: Signal[int] = Signal()
    signal.emit(1)
    with signal.watch() as one, signal.watch() as two:
        signal.emit(2)
    signal.emit(3)
    assert [one.get_nowait(), two.get_nowait()] == [2, 2]
    assert one.empty()
    assert two.empty()
