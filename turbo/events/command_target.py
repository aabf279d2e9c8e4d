"""A command that gets notices: argv of the configuration, the body as JSON on its standard input, exit code 0 for taken.

Nothing of an event is in its arguments or its environment. It is started, limited and ended as every program of a worker is.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

from turbo.config.notify import CommandTarget
from turbo.domain.event import Notice
from turbo.domain.run import StopSignal
from turbo.domain.task import NO_TASK
from turbo.domain.visible import visible, visible_json
from turbo.events.failure import DeliveryFailed
from turbo.host.state_dir import safe_name
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused
from turbo.process.journal import Journal
from turbo.process.launch import obstacle
from turbo.process.running import Ending, ProcessSpec, SpawnFailed, run_process

OUTPUT_BYTES = 4096
LOG_BYTES = 64 * 1024
SAID_CHARACTERS = 200


class CommandDelivery:
    """See `Target`. What the command printed last is in `logs`."""

    def __init__(self, name: str, section: CommandTarget, journal: Journal, logs: Path) -> None:
        file = EnvFile(Path(section.env_file)) if section.env_file is not None else None
        self._environment = ChildEnvironment(section.env, file, owner=f"notify.{name}")
        self._command = tuple(section.command)
        self._seconds = section.timeout_seconds
        self._journal = journal
        self._logs = logs
        self._name = safe_name(name)
        self._numbers = itertools.count()
        self.fold_over = section.fold_over
        self.with_output = "output" in section.include

    def secrets(self) -> Iterable[str]:
        """See `Target`."""
        try:
            return self._environment.secrets()
        except EnvironmentRefused:
            return ()

    def missing(self) -> str | None:
        """See `Target`."""
        try:
            path = self._environment.for_task(NO_TASK).get("PATH")
        except EnvironmentRefused as error:
            return str(error)
        return obstacle(self._command[0], path, None)

    async def deliver(self, notice: Notice) -> None:
        """See `Target`."""
        log_path = self._logs / f"notify-{self._name}-{next(self._numbers) % 2}.log"
        log_path.unlink(missing_ok=True)
        try:
            environment = self._environment.for_task(NO_TASK)
            spec = ProcessSpec(
                argv=self._command,
                env={key: value for key, value in environment.items() if not key.startswith("TURBO_")},
                cwd=Path("/"),
                log_path=log_path,
                wall_seconds=self._seconds,
                stdin=visible_json(notice.body).encode() + b"\n",
                grace_seconds=1.0,
                stdout_bytes=OUTPUT_BYTES,
                stderr_bytes=OUTPUT_BYTES,
                head_bytes=LOG_BYTES,
                tail_bytes=LOG_BYTES,
            )
            result = await run_process(spec, stop=StopSignal(), journal=self._journal)
        except (EnvironmentRefused, SpawnFailed) as error:
            raise DeliveryFailed(str(error)) from error
        except OSError as error:
            raise DeliveryFailed(f"cannot be started: {error.strerror or error}") from error
        program = Path(self._command[0]).name
        if result.ended_by is not Ending.EXITED:
            raise DeliveryFailed(f"{program} was ended after {self._seconds:g} s (timeout_seconds)")
        if result.returncode != 0:
            said = " ".join((result.stderr_tail or result.stdout.decode("utf-8", "replace")).split())[-SAID_CHARACTERS:]
            raise DeliveryFailed(f"{program}: {result.exit_text}" + (f": {visible(said)}" if said else ""))
