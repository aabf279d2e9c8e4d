"""`Client.schedules` and `AsyncClient.schedules`: work that repeats. Both drive the same operations (turbo.client.scheduling)."""

from typing import Any

from turbo.client import scheduling
from turbo.client.named_tables import AsyncDoes, Does
from turbo.client.schedule import NewSchedule, Schedule, ScheduleTask


class Schedules:
    """The schedules of a database. Raises UnknownSchedule for a name that none has, MayNotSchedule for a role that may not."""

    def __init__(self, run: Does) -> None:
        self._run = run

    def add(
        self,
        name: str,
        cron: str,
        text: str,
        *,
        timezone: str | None = None,
        enabled: bool = True,
        overlap: str | None = None,
        catch_up: str | None = None,
        jitter_seconds: int | None = None,
        max_failures: int | None = None,
        task_type: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        input_data: Any = None,
        timeout_seconds: int | None = None,
        max_retries: int | None = None,
        concurrency_key: str | None = None,
        replace: bool = False,
    ) -> Schedule:
        """Insert a schedule: at every slot of `cron` in `timezone` (UTC), a worker inserts a task with this text.

        `cron`: five fields, or six with the second first. `overlap`: skip (the default: no task at a slot while one of its tasks
        is not over) or queue. `catch_up`, of slots that were missed by more than a minute: none, one (the latest, the default) or
        all (at most 100). `jitter_seconds`: each task runs after a random delay below this. `max_failures`: so many failures in a
        row pause it. `replace`: change the one of this name, if there is one, to just this; what is paused stays paused.

        Raises BadField, ScheduleExists, ScheduleRefused (the database would not take such a task; the text says why).
        """
        schedule = NewSchedule(
            name,
            cron,
            text,
            timezone=timezone,
            enabled=enabled,
            overlap=overlap,
            catch_up=catch_up,
            jitter_seconds=jitter_seconds,
            max_failures=max_failures,
            task_type=task_type,
            queue=queue,
            task_priority=priority,
            input_data=input_data,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            concurrency_key=concurrency_key,
        )
        return self.insert(schedule, replace=replace)

    def insert(self, schedule: NewSchedule, *, replace: bool = False) -> Schedule:
        """Insert a schedule that was checked before; else as `add`."""
        return self._run(scheduling.add(schedule, replace))

    def get(self, name: str) -> Schedule:
        """One schedule, whole, with its next three slots."""
        return self._run(scheduling.get(name))

    def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Names with this prefix, for shell completion: only those that mean nothing to a shell."""
        return self._run(scheduling.names(prefix, limit))

    def tasks(self, name: str, limit: int | None = 10) -> list[ScheduleTask]:
        """Its latest tasks, the newest slot first; also of a schedule that was removed."""
        return self._run(scheduling.tasks(name, limit))

    def pause(self, name: str) -> bool:
        """Fire no slot until it is resumed; its tasks go on. Safe to repeat. False: it was paused already."""
        return self._run(scheduling.pause(name))

    def resume(self, name: str) -> bool:
        """Fire again: slots count from now. Clears its error and its count of failures. False: it was on, and without an error."""
        return self._run(scheduling.resume(name))

    def run(self, name: str) -> str:
        """Insert its task now, also if it is paused; its slots stay as they are. The task's id. Raises ScheduleRefused."""
        return self._run(scheduling.run(name))

    def remove(self, name: str) -> None:
        """Delete it. Its tasks stay, and go on."""
        self._run(scheduling.remove(name))

    def list(self, limit: int | None = None) -> list[Schedule]:
        """The schedules by name, each with its next three slots. Texts are cut to 200 characters, and input_data is left out."""
        return self._run(scheduling.listed(limit))


class AsyncSchedules:
    """`Schedules` with `await`: the same methods, arguments and exceptions (a test compares them)."""

    def __init__(self, run: AsyncDoes) -> None:
        self._run = run

    async def add(
        self,
        name: str,
        cron: str,
        text: str,
        *,
        timezone: str | None = None,
        enabled: bool = True,
        overlap: str | None = None,
        catch_up: str | None = None,
        jitter_seconds: int | None = None,
        max_failures: int | None = None,
        task_type: str | None = None,
        queue: str | None = None,
        priority: int | None = None,
        input_data: Any = None,
        timeout_seconds: int | None = None,
        max_retries: int | None = None,
        concurrency_key: str | None = None,
        replace: bool = False,
    ) -> Schedule:
        """Insert a schedule; see Schedules.add."""
        schedule = NewSchedule(
            name,
            cron,
            text,
            timezone=timezone,
            enabled=enabled,
            overlap=overlap,
            catch_up=catch_up,
            jitter_seconds=jitter_seconds,
            max_failures=max_failures,
            task_type=task_type,
            queue=queue,
            task_priority=priority,
            input_data=input_data,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            concurrency_key=concurrency_key,
        )
        return await self.insert(schedule, replace=replace)

    async def insert(self, schedule: NewSchedule, *, replace: bool = False) -> Schedule:
        """Insert a schedule that was checked before; else as `add`."""
        return await self._run(scheduling.add(schedule, replace))

    async def get(self, name: str) -> Schedule:
        """One schedule, whole, with its next three slots."""
        return await self._run(scheduling.get(name))

    async def names(self, prefix: str = "", limit: int = 50) -> list[str]:
        """Names with this prefix, for shell completion: only those that mean nothing to a shell."""
        return await self._run(scheduling.names(prefix, limit))

    async def tasks(self, name: str, limit: int | None = 10) -> list[ScheduleTask]:
        """Its latest tasks, the newest slot first; also of a schedule that was removed."""
        return await self._run(scheduling.tasks(name, limit))

    async def pause(self, name: str) -> bool:
        """Fire no slot until it is resumed; its tasks go on. Safe to repeat. False: it was paused already."""
        return await self._run(scheduling.pause(name))

    async def resume(self, name: str) -> bool:
        """Fire again: slots count from now. Clears its error and its count of failures. False: it was on, and without an error."""
        return await self._run(scheduling.resume(name))

    async def run(self, name: str) -> str:
        """Insert its task now, also if it is paused; its slots stay as they are. The task's id. Raises ScheduleRefused."""
        return await self._run(scheduling.run(name))

    async def remove(self, name: str) -> None:
        """Delete it. Its tasks stay, and go on."""
        await self._run(scheduling.remove(name))

    async def list(self, limit: int | None = None) -> list[Schedule]:
        """The schedules by name, each with its next three slots. Texts are cut to 200 characters, and input_data is left out."""
        return await self._run(scheduling.listed(limit))
