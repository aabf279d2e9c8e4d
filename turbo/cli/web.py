"""`turbo web`: the page, for people with a browser."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from turbo.cli import output
from turbo.cli.options import Dsn, listen_dsn, on_the_command_line, use_env_file

if TYPE_CHECKING:
    from turbo.config.web import WebSection
    from turbo.web.settings import WebSettings

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def web(
    context: typer.Context,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on. [default: web.host, else 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Its port; 0: any that is free. [default: web.port, else 9480]")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, and change nothing.")] = False,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="A worker's YAML file, for its section web. [default: TURBO_CONFIG]"),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="Print a new link for the page that runs on this host, and exit.")
    ] = False,
    no_link: Annotated[
        bool, typer.Option("--no-link", help="Print no link: for a service, whose output is a log.")
    ] = False,
    env_file: Annotated[
        Path | None, typer.Option(help="File of KEY=VALUE lines for its environment, e.g. TURBO_DSN; mode 0600.")
    ] = None,
    dsn: Dsn = None,
) -> None:
    """Show the fleet in a browser.

    It prints a link that signs one browser in, once; --link prints another one. The page may do what the database role of
    the connection may do.

    \b
    Examples:
      turbo web
      turbo web --read-only --port 8080
      turbo web --config worker.yaml
      turbo web --link
    """
    if link and no_link:
        raise typer.BadParameter("--link and --no-link: give one of them")
    if env_file is not None:
        use_env_file(env_file)
    from turbo.cli import run_log
    from turbo.config.web import WebSection

    settings = run_log.configuration(config)
    directory = run_log.state_dir(None, config) / "web"
    section = settings.web if settings is not None else WebSection()
    given = {"host": host, "port": port, "read_only": read_only or None}
    section = section.model_copy(update={name: value for name, value in given.items() if value is not None})
    try:
        from turbo.web.settings import WebSettings
        from turbo.web.sign_in import SignIns
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    if link:
        output.print_unchanged(f"{_address(section)}/sign-in#{SignIns(directory).new_link()}")
        return
    configured = settings.database.dsn if settings is not None else ""
    where = on_the_command_line(context, dsn) or os.environ.get("TURBO_DSN") or configured
    _serve(WebSettings(where, directory, section, listen_dsn(settings)), no_link)


def _serve(settings: "WebSettings", no_link: bool) -> None:
    import asyncio
    import socket

    try:
        from turbo.web.server import serve
        from turbo.web.sign_in import SignIns
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    web = settings.web
    if (web.certfile is None) != (web.keyfile is None):
        raise typer.BadParameter("web.certfile and web.keyfile belong together: give both")
    try:
        family = socket.AF_INET6 if ":" in web.host else socket.AF_INET
        listening = socket.create_server((web.host, web.port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {web.host}:{web.port}: {error.strerror}; --port takes another one") from None
    web = web.model_copy(update={"port": listening.getsockname()[1]})
    settings = replace(settings, web=web)
    if web.host not in LOOPBACK and not settings.https:
        output.notice(
            "turbo web: people will reach this page without encryption, and anyone on the way can act as them: set web.certfile "
            "and web.keyfile, or put a reverse proxy with HTTPS in front and set web.url (docs/web.md)"
        )
    address = _address(web)
    if no_link:
        output.notice(f"turbo web: {address} (turbo web --link prints a link that signs in)")
    else:
        output.notice(f"turbo web: open {address}/sign-in#{SignIns(settings.directory).new_link()} (it works once)")
    asyncio.run(serve(settings, listening))


def _address(web: "WebSection") -> str:
    if web.url is not None:
        return web.url
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(web.host, f"[{web.host}]" if ":" in web.host else web.host)  # noqa: S104
    return f"{'https' if web.certfile else 'http'}://{host}:{web.port}"


def _missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    if error.name is None or error.name.split(".")[0] == "turbo":
        return error
    return ModuleNotFoundError(f"the package {error.name} is missing: pip install 'agent-turbo[web]'")
