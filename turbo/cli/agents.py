"""`turbo agents`: what an agent can do over the Agent Client Protocol."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from turbo.cli import output
from turbo.cli.options import Json

if TYPE_CHECKING:
    from turbo.executors.acp.probing import AgentFindings

app = typer.Typer(no_args_is_help=True, help="Find out what an agent can do over ACP.", rich_markup_mode=None)


@app.callback()
def agents() -> None:
    """Find out what an agent can do over ACP."""


@app.command(context_settings={"allow_interspersed_args": False})
def probe(
    program: Annotated[
        list[str], typer.Argument(metavar="PROGRAM [ARGS]…", help="The agent, as a worker would start it.")
    ],
    no_prompt: Annotated[
        bool, typer.Option("--no-prompt", help="Send no prompt: costs nothing, and finds out less.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Talk to an agent, tell what it can do, and print a profile to start from.

    \b
    Examples:
      turbo agents probe opencode acp
      turbo agents probe --no-prompt gemini --acp > profile.yaml

    The agent gets your environment and an empty directory. It is sent two short prompts. Nothing that it asks for is allowed. What
    was found goes to standard error, the profile to standard output.
    """
    import asyncio
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    from turbo.executors.acp.probing import probe_agent
    from turbo.process.running import SpawnFailed

    with tempfile.TemporaryDirectory(prefix="turbo-agent-") as scratch:
        directory = Path(scratch) / "work"
        directory.mkdir()
        try:
            found = asyncio.run(probe_agent(program, directory, prompts=not no_prompt))
        except SpawnFailed as error:
            raise typer.BadParameter(str(error)) from None
    profile = profile_of(found, program)
    if as_json:
        output.print_json({"found": asdict(found), "profile": profile})
    else:
        for line in told(found):
            output.notice(line)
        if found.protocol == 1:
            for line in as_yaml(found, profile, program).splitlines():
                output.echo(line)
    if found.problem is not None:
        raise typer.Exit(1)


def told(found: "AgentFindings") -> Iterator[str]:
    """What was found, for people. The words of the agent are made safe by `output`."""
    name = " ".join(filter(None, (found.name, found.version))) or "an agent without a name"
    yield f"agent            {name}, protocol {found.protocol}"
    if found.protocol == 1:
        yield f"ways to log in   {', '.join(found.logins) or 'none named'}"
        yield f"prompts          text{''.join(f', {kind}' for kind in found.prompts)}"
        yield f"sessions         says {', '.join(found.says) or 'nothing'}; {_resumes(found)}"
        tried = "resume" in found.works or "load" in found.works
        yield f"unknown session  {_error(found.unknown_session) if tried else 'not tried'}"
        yield f"bad request      {_error(found.bad_request)}"
        for key in ("mode", "model"):
            names = found.lists.get(key, [])
            more = f", and {len(names) - 12} more" if len(names) > 12 else ""
            yield f"{key:<16} {found.set_by.get(key, 'cannot be set')}: {', '.join(names[:12]) or '-'}{more}"
    if found.reason is not None:
        yield f"prompt           {found.reason}, {found.text[:80]!r}, updates {', '.join(found.kinds) or 'none'}"
        yield f"usage            {found.usage}"
    if found.asked:
        yield f"asked            {', '.join(sorted(set(found.asked)))}"
    if found.cancelled is not None:
        yield f"cancel           heeded after {found.cancelled:.1f} s"
    elif found.reason is not None:
        yield f"cancel           {'ignored for 20 s' if found.cancel_ignored else 'the turn ended in another way'}"
    if found.exited is not None:
        yield f"end of stdin     {'ends it' if found.exited else 'does not end it'}"
    if found.problem is not None:
        yield f"problem          {found.problem}"
        if found.protocol == 1:
            yield "                 the profile is not complete: mend this, and probe again"


def _resumes(found: "AgentFindings") -> str:
    ways = [
        f"{way} {'works' if found.works[way] else 'is refused'}" for way in ("resume", "load") if way in found.works
    ]
    return ", ".join(ways) or "no way to go on was tried"


def _error(error: Any) -> str:
    return f"error {error.code} {error.text[:120]!r}" if error is not None else "no error"


def profile_of(found: "AgentFindings", command: Sequence[str]) -> dict[str, object]:
    from turbo.executors.acp.probing import profile_name

    profile: dict[str, object] = {
        "name": profile_name(found, command),
        "command": list(command),
        **({} if found.resume is None else {"resume": found.resume}),
        **found.set_by,
        "tells_failures": False,
        **({} if found.usage is None else {"usage": found.usage}),
        "failures": [{"means": "login", "code": [-32000]}],
    }
    if found.cancel_ignored:
        profile["stop_seconds"] = 1
    return profile


def as_yaml(found: "AgentFindings", profile: Mapping[str, object], command: Sequence[str]) -> str:
    """A section of worker.yaml. The command is in it once."""
    import yaml

    section = {
        "kind": "acp",
        "command": list(command),
        "check": {"command": ["make", "test"]},
        "profile": {key: value for key, value in profile.items() if key != "command"},
    }
    name = str(profile["name"])
    text = yaml.safe_dump({"executors": {name: section}}, sort_keys=False, default_flow_style=None, width=110)
    notes = [] if found.problem is None else ["# This profile is not complete: the probe met a problem. Probe again."]
    notes += [
        "# account: name one whose env_file has the agent's key. A task does not get the variables of your shell.",
        "# check: until you know how failures of the agent's service show, a check decides what is done.",
        "# tells_failures: set it to true, and remove check, when end_turn never comes after its service has refused it.",
        "# failures: how its errors show (docs/how-to/add-an-agent.md).",
    ]
    if found.lists.get("mode"):
        notes.append(f"# modes of the agent: {', '.join(found.lists['mode'][:12])}")
    safe = [note.encode("ascii", "backslashreplace").decode() for note in notes]
    return "\n".join([*safe, text.rstrip()])
