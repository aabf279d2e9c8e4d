"""`turbo worker`: run one worker process until a signal stops it."""

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli.options import Dsn, listen_dsn, on_the_command_line, use_env_file

if TYPE_CHECKING:
    import asyncio


def worker(
    context: typer.Context,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="The worker's YAML file. [default: TURBO_CONFIG]")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Overrides worker.name.")] = None,
    slots: Annotated[int | None, typer.Option(help="Overrides worker.slots.")] = None,
    queue: Annotated[list[str] | None, typer.Option(help="Overrides worker.queues; repeatable.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Overrides metrics.port; 0 takes any free port.")] = None,
    env_file: Annotated[
        Path | None, typer.Option(help="File of KEY=VALUE lines for the worker's environment; mode 0600.")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="Log to this file, with rotation, instead of stderr.")] = None,
    dsn: Dsn = None,
) -> None:
    """Run a worker: claim tasks, run agents, record results.

    On TERM, INT or QUIT it drains and exits 0. A second one stops the agents at once and releases their tasks.
    On HUP it opens its log file again and reads the env file again.

    \b
    Examples:
      turbo worker --config config/worker.yaml
      turbo worker -c worker.yaml --name beta --slots 4 --queue heavy --metrics-port 0
    """
    import asyncio

    from turbo.process.concealment import conceal_environment, showing
    from turbo.process.init import leave_orphans_to_init

    conceal_environment()  # before init is forked, which lives as long
    leave_orphans_to_init()

    from turbo.config.loader import has_password, in_file
    from turbo.config.worker import ConfigError, database_dsn, load_worker_config
    from turbo.db.address import Address
    from turbo.db.connect import connect_arguments
    from turbo.host.state_dir import StateDirUnusable, replaceable_by
    from turbo.observability import log
    from turbo.worker.signals import WorkerSignals
    from turbo.worker.worker import Worker

    signals = WorkerSignals()
    signals.hold()
    path = config or (Path(os.environ["TURBO_CONFIG"]) if os.environ.get("TURBO_CONFIG") else None)
    if path is None:
        raise ConfigError(
            "no configuration: give --config FILE, or set TURBO_CONFIG; config/worker.yaml is a working example"
        )
    environment = use_env_file(env_file) if env_file is not None else None
    given = {
        "worker.name": name,
        "worker.slots": slots,
        "worker.queues": queue or None,
        "metrics.port": metrics_port,
    }
    settings = load_worker_config(path, {key: value for key, value in given.items() if value is not None})
    try:
        log.configure(log_file=log_file)
    except OSError as error:
        raise ConfigError(f"--log-file {log_file}: cannot be written: {error.strerror}") from None

    if (why := replaceable_by(Path(settings.worker.state_dir))) is not None:
        logging.getLogger(__name__).warning("state_dir: %s; put it below a directory of root's or of this user's", why)
    where = on_the_command_line(context, dsn) or os.environ.get("TURBO_DSN") or settings.database.dsn
    connect_arguments(where, "turbo worker")  # an unreadable DSN is an error now, not an outage to wait for

    def dsn_in(variables: Mapping[str, str]) -> str:
        return (
            on_the_command_line(context, dsn)
            or variables.get("TURBO_DSN")
            or (settings.database.dsn and database_dsn(path, variables))
        )

    if (given_dsn := on_the_command_line(context, dsn)) is not None and has_password(given_dsn):
        logging.getLogger(__name__).warning(
            "--dsn contains a password, which the process list showed until the worker started; put it in ~/.pgpass (mode 0600), "
            "a service file, or TURBO_DSN in an --env-file"
        )
    listen_where = listen_dsn(settings)
    connect_arguments(listen_where, "turbo worker")
    with_password = [one for one in (where, listen_where) if has_password(one)]
    if with_password or os.environ.get("PGPASSWORD"):
        password = os.environ.get("PGPASSWORD")
        for pid, program in showing([*with_password, f"PGPASSWORD={password}" if password else ""]):
            logging.getLogger(__name__).warning(
                "every user of this host can read the database's password in the arguments of process %d (%s), which has started this "
                "worker and lives as long: put it in ~/.pgpass (mode 0600), a service file, or TURBO_DSN in an --env-file",
                pid,
                program,
            )

    def listen_dsn_in(variables: Mapping[str, str]) -> str:
        return variables.get("TURBO_LISTEN_DSN") or (
            settings.database.listen_dsn and database_dsn(path, variables, "listen_dsn")
        )

    apart = listen_where not in ("", where)
    listen = Address(listen_where, environment, listen_dsn_in) if apart else None
    address = Address(where, environment, dsn_in, listen)

    def reload(worker_process: Worker) -> str:
        try:
            file = log.reopen()
            opened = f"opened {file} again" if file else "no --log-file to open again"
        except OSError as error:
            opened = f"cannot open {log_file} again: {error.strerror}"
        return "; ".join(filter(None, (opened, address.reload(), worker_process.reload())))

    async def run() -> int:
        try:
            worker_process = Worker(settings, dsn=address)
        except ConfigError as error:
            raise in_file(error, path) from None
        log.configure(worker_process.id, log_file)
        signals.handle(asyncio.get_running_loop(), worker_process.stop, partial(reload, worker_process))
        return await worker_process.run()

    try:
        with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
            code = runner.run(run())
    except StateDirUnusable as error:
        raise ConfigError(str(error)) from None
    raise typer.Exit(code)


def _fastest_loop() -> "Callable[[], asyncio.AbstractEventLoop] | None":
    """uvloop's loop if it is installed (`pip install 'agent-turbo[uvloop]'`), else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
