"""What the CLI takes from the directory in which it works: its instructions, and nothing that it would obey.

By itself the headless CLI obeys `.claude/settings.json` of any directory, without asking for trust. One line there sends
every request, with the account's token, to another server; hooks, `apiKeyHelper` and the servers of `.mcp.json` are
programs that it starts. `--setting-sources user` leaves all of them out, and CLAUDE.md too. `--add-dir .` with
INSTRUCTIONS_VARIABLE reads CLAUDE.md and `.claude/rules` again, without files that they import from elsewhere.

Measured with 2.1.330 and 2.1.197; tests/integration/test_claude_repository.py repeats it with the installed CLI.
"""

import os
import stat
from pathlib import Path

UNTRUSTED = ("--setting-sources", "user")
"""The operator's own ~/.claude and the administrator's settings, and none of a directory. The last of several such flags counts."""

INSTRUCTIONS_VARIABLE = "CLAUDE_CODE_ADDITIONAL_DIRECTORIES_CLAUDE_MD"

_READ = ("CLAUDE.md", ".claude", ".claude/CLAUDE.md")
"""What the CLI opens through a link (measured). It does not follow one below `.claude/rules`."""


def instructions(directory: Path, *, ours: bool = True) -> tuple[tuple[str, ...], dict[str, str]]:
    """Flags and variables with which the CLI reads the directory's instructions. Raises UnusableInstructions.

    `ours`: the CLI runs as this process's user. Another user's directory may be closed to us, and a link in it leads to nothing
    that this user could not read anyway, so it is not looked into.
    """
    for name in _READ if ours else ():
        if (problem := _problem(directory, name)) is not None:
            raise UnusableInstructions(f"{name} in {directory} {problem}: its instructions are not read")
    return ("--add-dir", "."), {INSTRUCTIONS_VARIABLE: "1"}


class UnusableInstructions(Exception):
    """The instructions of a directory are somewhere else, or no file."""


def _problem(directory: Path, name: str) -> str | None:
    path = directory / name
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"cannot be examined: {error.strerror}"
    if not path.resolve().is_relative_to(directory.resolve()):
        return f"leads out of it, to {os.path.realpath(path)}"
    if kind not in (stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a directory"
    return None
