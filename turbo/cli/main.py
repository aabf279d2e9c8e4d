"""The `turbo` command: imports the command's module, and turns errors into one line and an exit code.

Only the requested command's module is imported: `turbo worker` loads no table drawing, and --help is quick.
Exit codes: 0 done, 1 failed, 2 wrong usage or configuration.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from turbo import __version__
from turbo.cli import output
from turbo.cli.encoding import print_safely

COMMANDS = {
    "db": ("turbo.cli.db", "app"),
    "migrate": ("turbo.cli.migrate", "migrate"),
    "worker": ("turbo.cli.worker", "worker"),
    "submit": ("turbo.cli.submit", "submit"),
    "tasks": ("turbo.cli.tasks", "tasks"),
    "show": ("turbo.cli.show", "show"),
    "graph": ("turbo.cli.graph", "graph"),
    "diff": ("turbo.cli.diff", "diff"),
    "files": ("turbo.cli.files", "files"),
    "questions": ("turbo.cli.questions", "questions"),
    "answer": ("turbo.cli.answer", "answer"),
    "approve": ("turbo.cli.approve", "approve"),
    "deny": ("turbo.cli.approve", "deny"),
    "reply": ("turbo.cli.reply", "reply"),
    "tell": ("turbo.cli.reply", "tell"),
    "cancel": ("turbo.cli.change", "cancel"),
    "retry": ("turbo.cli.change", "retry"),
    "schedule": ("turbo.cli.schedule", "app"),
    "budget": ("turbo.cli.budget", "app"),
    "limit": ("turbo.cli.limit", "app"),
    "subscription": ("turbo.cli.subscription", "app"),
    "pause": ("turbo.cli.pause", "pause"),
    "resume": ("turbo.cli.pause", "resume"),
    "status": ("turbo.cli.status", "status"),
    "costs": ("turbo.cli.costs", "costs"),
    "doctor": ("turbo.cli.doctor", "doctor"),
    "top": ("turbo.cli.top", "top"),
    "logs": ("turbo.cli.logs", "logs"),
    "mcp": ("turbo.cli.mcp", "mcp"),
    "web": ("turbo.cli.web", "web"),
    "agents": ("turbo.cli.agents", "app"),
    "fleet": ("turbo.cli.fleet", "app"),
    "config": ("turbo.cli.config", "app"),
    "self": ("turbo.cli.installation", "app"),
}

PLAINER = {
    "Possible options:": "did you mean",
    "Input should be a valid integer, unable to parse string as an integer": "write a whole number",
    "Input should be a valid number, unable to parse string as a number": "write a number",
    "Input should be": "must be",
}
"""What typer and pydantic say about wrong options, and what we say."""

MAY_BE_CUT_SHORT = frozenset(
    {"", "tasks", "show", "status", "logs", "cancel", "retry", "pause", "resume"}
    | {"questions", "answer", "deny", "graph", "tell", "schedule", "budget", "limit", "costs"}
)
"""Commands that a closed pipe ends at once, like any Unix tool: when they print, their work is done. Commands that insert,
migrate or serve continue to their end. Commands that write to a program or a socket of their own (doctor, config,
subscription, agents, self) are not here either: a program that ends before it has read everything must not end turbo."""

# The base of BadParameter, wherever this version of Typer keeps it: wrong usage of any kind.
UsageError: Any = typer.BadParameter.__base__


def _version(show: bool) -> None:
    if show:
        output.echo(f"turbo {__version__}")
        raise typer.Exit


def _build(names: list[str]) -> typer.Typer:
    app = typer.Typer(
        name="turbo",
        no_args_is_help=True,
        add_completion=len(names) > 1,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def turbo(
        version: Annotated[
            bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
        ] = False,
    ) -> None:
        """An event-driven worker fleet for coding agents over PostgreSQL.

        \b
        Work with tasks:
          turbo submit "Review src/auth.py" --wait
          turbo tasks --status failed --since 1h
          turbo show my_task_1
          turbo diff my_task_1                      # what it changed in its workspace
          turbo questions                           # who waits for you
          turbo reply my_task_1 "Now the docs too"  # go on with its conversation
          turbo graph my_task_1                     # what it needs, what needs it
          turbo schedule list                       # what repeats, and when

        \b
        Look after the fleet:
          turbo status                              # problems come first
          turbo top                                 # live
          turbo web                                 # in a browser
          turbo costs                               # what agents used
          turbo budget list                         # what they may use
          turbo limit set gpu 3                     # three tasks of a key at a time
          turbo doctor --config config/worker.yaml  # what will cause trouble
        """

    for name in names:
        module, attribute = COMMANDS[name]
        command = getattr(importlib.import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """The console script."""
    if sys.stdout is None:  # a wrapper closed it
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if any(word.startswith("--dsn") for word in sys.argv):
        from turbo.process.concealment import conceal_option

        conceal_option("--dsn", sys.argv)
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    print_safely(stand_ins_on_stderr=asked != "worker")
    if asked in MAY_BE_CUT_SHORT or asked.startswith("-") or "--help" in sys.argv:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    app = _build([asked] if asked in COMMANDS else list(COMMANDS))
    debug = bool(os.environ.get("TURBO_DEBUG"))
    try:
        code = typer.main.get_command(app).main(prog_name="turbo", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as error:
        sys.exit(_wrong_usage(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone, so the interpreter's own flush must not write either.
        _forsake_stdout()
        sys.exit(141)
    except typer.Abort:
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        code = _explain(error, asked)
        try:
            sys.stdout.flush()
        except OSError:  # a full disk behind it: the interpreter's own flush would turn the exit code into 120
            _forsake_stdout()
        sys.exit(code)


def _forsake_stdout() -> None:
    """Discard what is still buffered."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wrong_usage(error: Any) -> int:
    """One line on stderr, or the help if there are no arguments at all."""
    text = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "turbo"
    if type(error).__name__ == "NoArgsIsHelpError":
        output.echo_lines(error.format_message())
    else:
        text = text.removeprefix("Invalid value: ").rstrip(".")
        for theirs, ours in PLAINER.items():
            text = text.replace(theirs, ours)
        text = text if text.startswith("-") else text[:1].lower() + text[1:]
        output.notice(f"{path}: {text} (see {path} --help)")
    return 2


def _explain(error: Exception, command: str) -> int:
    """One line on stderr, and the exit code."""
    from turbo import db
    from turbo.client.failures import explained
    from turbo.config.worker import ConfigError

    text = explained(error, command)
    code = 2 if isinstance(error, ConfigError | db.UnreadableDsn) else 1
    # A configuration has a line for each problem. Further lines of any other text cannot pass for a line of turbo's.
    output.echo_lines(f"turbo {command}: {output.indented(text, 0 if code == 2 else 4)}", err=True)
    return code
