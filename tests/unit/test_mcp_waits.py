"""Waits whose clients may be gone: one more ends the oldest, and nothing else."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from turbo.mcp.waits import Waits, until


async def test_one_wait_more_ends_the_oldest() -> None:
    waits = Waits(2)
    async with AsyncExitStack() as stack:
        first, second, third = [await stack.enter_async_context(waits.one()) for _ in range(3)]
        assert (first.is_set(), second.is_set(), third.is_set()) == (True, False, False)
        async with waits.one():
            assert (second.is_set(), third.is_set()) == (True, False)
    async with waits.one() as alone:
        assert not alone.is_set()


async def test_job_is_done_or_left_when_its_time_is_over() -> None:
    over, done = asyncio.Event(), []

    async def job(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
        finally:
            done.append(seconds)

    await until(over, job(0))
    over.set()
    await until(over, job(60))
    assert done == [0, 60], "what it holds is given back before the wait ends"


async def test_error_of_the_job_is_the_waits_own() -> None:
    async def job() -> None:
        raise TimeoutError("too late")

    with pytest.raises(TimeoutError, match="too late"):
        await until(asyncio.Event(), job())
