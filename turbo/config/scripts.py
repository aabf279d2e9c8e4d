"""Commands in which a row's value would be code, and commands whose code lies in a directory that a row may choose.

[sh, -c, "grep {input[word]} notes"]     the value is part of a script: `x; rm -r .` runs
[sh, -c, 'grep "$1" notes', sh, "{input[word]}"]     the value is an argument of the script, and stays one
"""

import re
from collections.abc import Iterator, Sequence

_PLACEHOLDER = re.compile(r"\{(?:task_id|task_type|input\[[^\[\]{}]+\])\}")
_VERSION = "-.0123456789"

_SHELL = r"-[A-Za-z]*c"
_CODE_FLAGS = {
    **dict.fromkeys(("sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "csh", "tcsh", "rbash", "su", "runuser"), _SHELL),
    **dict.fromkeys(("python", "pypy"), r"-[A-Za-z]*c"),
    **dict.fromkeys(("perl", "ruby"), r"-[A-Za-z0-9]*[eE]"),
    **dict.fromkeys(("node", "nodejs", "bun", "deno"), r"-[a-z]*[ep]|--eval|--print|eval"),
    **dict.fromkeys(("lua", "luajit", "julia", "R", "Rscript", "osascript", "swift", "mysql", "mariadb", "groovy", "elixir"),
                    r"-[a-z]*e|--eval|--execute"),
    **dict.fromkeys(("psql", "duckdb", "script", "flock", "ssh-agent", "vim", "nvim", "expect"), r"-[a-z]*c|--command"),
    "php": r"-[rBRE]",
    "env": r"-[a-zA-Z]*S|--split-string",
    "sed": r"-[a-zA-Z]*e|--expression",
    **dict.fromkeys(("pwsh", "powershell"), r"(?i:-c|-command|-encodedcommand)"),
    **dict.fromkeys(("emacs", "emacsclient"), r"--eval|-eval|--execute"),
    "find": r"-exec(dir)?|-ok(dir)?",
}  # fmt: skip
"""Programs, and the flags after which they take code."""

_ALL_CODE = {
    "eval": "evaluates its arguments", "ssh": "hands its arguments to a shell on the other host",
    **dict.fromkeys(("make", "gmake"), "expands `$(shell …)` in its arguments"),
    **dict.fromkeys(("awk", "gawk", "mawk", "sqlite", "jq"), "takes code as an argument"),
    **dict.fromkeys(("watch", "parallel", "xargs", "at", "batch"), "hands its arguments to a shell"),
}  # fmt: skip
_MODULE = {"python": "-m", "pypy": "-m"}
_TAKE_FILE = {
    "sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "csh", "tcsh", "python", "pypy", "perl", "ruby", "node", "nodejs",
    "bun", "lua", "luajit", "julia", "Rscript", "php", "osascript", "tclsh", "expect", "env", "nice", "nohup", "timeout",
}  # fmt: skip


def code_from_rows(command: Sequence[str]) -> Iterator[str]:
    """A warning for each word with a placeholder that a known program takes for code, behind wrappers such as `env` too."""
    seen = set()
    for at, word in enumerate(command):
        program = _name(word)
        for place in range(at + 1, len(command)):
            if place in seen or not (placeholder := _PLACEHOLDER.search(command[place])):
                continue
            if (how := _ALL_CODE.get(program)) is not None:
                seen.add(place)
                yield f"{program} {how}, and a row fills {placeholder[0]}: what it holds may run. Give it through stdin"
            elif _is_code(program, command[place - 1], command[place]):
                seen.add(place)
                yield (
                    f"{placeholder[0]} is part of code that {program} runs, so a row may run anything. Give the value as an "
                    f'argument of its own, for example [sh, -c, \'tool "$1"\', sh, "{placeholder[0]}"], or read it from stdin'
                )


def code_from_directory(command: Sequence[str]) -> Iterator[str]:
    """A warning for a script or module that is looked up in the task's directory, which a row may choose (allowed_roots)."""
    for at, word in enumerate(command[:-1]):
        program, after = _name(word), command[at + 1]
        if program in _MODULE and after in (_MODULE[program], "-c"):
            yield (
                f"{program} {after} looks for modules in the directory of the task first, which a row may choose "
                f"(allowed_roots): write [{word}, -P, {after}, …]"
            )
        elif program in _TAKE_FILE and not after.startswith(("-", "/", "~", "{")) and ("/" in after or "." in after):
            yield (
                f"{program} looks for {after} in the directory of the task, which a row may choose (allowed_roots): "
                "write its absolute path, unless the directory's own file is meant"
            )


def _is_code(program: str, flag: str, word: str) -> bool:
    """Whether `word`, after `flag`, is code for the program: by itself, or behind a flag that it begins with."""
    flags = _CODE_FLAGS.get(program)
    if flags is None:
        return False
    return bool(re.fullmatch(flags, flag) or re.match(rf"(?:{flags})(?==|\{{)", word))


def _name(word: str) -> str:
    """The name of a program: `python` for /usr/bin/python3.11."""
    name = word.rpartition("/")[2]
    return name.rstrip(_VERSION) or name
