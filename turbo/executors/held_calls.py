"""Which of an agent's calls wait for a person: the rules of `ask.approve`.

    HeldCalls(["Bash(git push *)", "ExitPlanMode", "mcp__github__*"])
    .held_by("Bash", {"command": "cd sub && git push"})     "Bash(git push *)"
    .held_by("Bash", {"command": "git status"})             None

The rules are written as the Claude CLI writes its permission rules. A rule holds more than the CLI's own rule of that text would:
every simple command of a shell text is compared, wherever it stands, and what cannot be read is held (docs/how-to/approval-rules.md).
"""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from turbo.executors.shell.names import names
from turbo.executors.shell.patterns import Pattern

if TYPE_CHECKING:
    from turbo.executors.shell.guard import Guard

SHELL_TOOLS = frozenset(("Bash", "Monitor"))
"""Tools that run the shell text in `command`. A rule for Bash is for all of them."""

OTHER_SHELLS = frozenset(("PowerShell", "REPL"))
"""Tools that run a text that turbo does not read. Every rule for Bash holds all their calls."""

PATH_TOOLS = frozenset(("Edit", "Glob", "Grep", "LS", "MultiEdit", "NotebookEdit", "NotebookRead", "Read", "Write"))
KNOWN = (
    SHELL_TOOLS
    | OTHER_SHELLS
    | PATH_TOOLS
    | names(
        """Agent AskUserQuestion BashOutput CronCreate CronDelete CronList EnterPlanMode EnterWorktree ExitPlanMode
    ExitWorktree KillShell ListMcpResources LSP ReadMcpResource RemoteTrigger ScheduleWakeup SendMessage Skill
    SlashCommand Task TaskCreate TaskGet TaskList TaskOutput TaskStop TaskUpdate TodoWrite ToolSearch WebFetch
    WebSearch Workflow"""
    )
)
SYNONYMS = {"Task": "Agent", "SlashCommand": "Skill", "BashOutput": "TaskOutput", "KillShell": "TaskStop"}
"""Tools with an older name."""

RULE = re.compile(r"([^()\s]+)(?:\((.*)\))?", re.DOTALL)
TOOL = re.compile(r"[A-Z][A-Za-z0-9]*")
MCP = re.compile(r"mcp__[A-Za-z0-9_.*-]+")
DOMAIN = re.compile(r"domain:((?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z0-9]|localhost)", re.IGNORECASE)
PLAIN_URL = re.compile(r"https?://([A-Za-z0-9.-]+)(?::[0-9]*)?(?:[/?#][\x21-\x5b\x5d-\x7e]*)?", re.IGNORECASE)
LONGEST_MCP_NAME = 500


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `text`: as the operator wrote it. Exactly one of the others is set, or `tool` alone."""

    text: str
    tool: str
    command: Pattern | None = None
    domain: str | None = None
    mcp: str | None = None

    @property
    def for_shells(self) -> bool:
        return self.tool == "Bash"

    def holds_tool(self, name: str) -> bool:
        """It is about this tool."""
        if self.mcp is not None:
            # `a__b` may be the tool b of the server a, or a server of that name.
            return len(name) > LONGEST_MCP_NAME or fnmatchcase(name, self.mcp) or fnmatchcase(name, f"{self.mcp}__*")
        return SYNONYMS.get(name, name) == SYNONYMS.get(self.tool, self.tool)


class HeldCalls:
    """The rules, read once. Raises ValueError with one sentence about the first rule that it cannot understand or keep."""

    def __init__(self, rules: Sequence[str]) -> None:
        self._rules = tuple(_rule(text) for text in rules)
        self._shell = tuple(rule for rule in self._rules if rule.for_shells)
        self._patterns = tuple(rule for rule in self._shell if rule.command is not None)
        self._guard = _guard([rule.command for rule in self._patterns if rule.command is not None])

    def without(self, rules: Collection[str]) -> "HeldCalls":
        """The other rules alone: a text may hold commands of several rules, of which `held_by` names one."""
        return HeldCalls([rule.text for rule in self._rules if rule.text not in rules])

    def held_by(self, tool: str, call: Mapping[str, object]) -> str | None:
        """The text of the rule that holds this call; None: it may be made. Never raises: what is not understood is held."""
        if self._shell and tool in OTHER_SHELLS:
            return self._shell[0].text
        if self._shell and tool in SHELL_TOOLS and not (tool == "Monitor" and "command" not in call and "ws" in call):
            return self._shell_rule(call.get("command")) or self._other_rule(tool, call)
        return self._other_rule(tool, call)

    def _shell_rule(self, text: object) -> str | None:
        whole = next((rule for rule in self._shell if rule.command is None), None)
        if not isinstance(text, str):
            return self._shell[0].text
        place = self._guard.held_by(text) if self._guard is not None else None
        held = self._patterns[place] if place is not None else None
        if whole is None or held is None:
            return held.text if held is not None else whole.text if whole is not None else None
        return min(held, whole, key=self._shell.index).text

    def _other_rule(self, tool: str, call: Mapping[str, object]) -> str | None:
        for rule in self._rules:
            if rule.for_shells or not rule.holds_tool(tool):
                continue
            if rule.domain is None or _is_in_domain(call.get("url"), rule.domain):
                return rule.text
        return None


def _guard(patterns: Sequence[Pattern]) -> "Guard | None":
    """Loads the parsers, for rules that need them."""
    if not patterns:
        return None
    from turbo.executors.shell.guard import Guard

    return Guard(patterns)


def _rule(text: str) -> Rule:
    found = RULE.fullmatch(text.strip())
    if found is None or text.count("(") > 1 or text.count(")") != text.count("("):
        problem = "it is empty" if not text.strip() else "it is not of the form Tool or Tool(…)"
        raise ValueError(f"the rule {text!r} is not understood: {problem}, as ExitPlanMode or Bash(git push *)")
    tool, argument = found[1], found[2]
    try:
        return _understood(text, tool, argument)
    except ValueError as error:
        raise ValueError(f"the rule {text!r} is not understood: {error}") from None


def _understood(text: str, tool: str, argument: str | None) -> Rule:
    if tool.startswith("mcp__"):
        return _mcp_rule(text, tool, argument)
    if not TOOL.fullmatch(tool) or tool not in KNOWN:
        _check_name(tool)
    if argument is None:
        return Rule(text, tool)
    if tool == "Bash":
        if argument.strip() in ("*", ":*"):
            return Rule(text, tool)
        return Rule(text, tool, command=Pattern(argument))
    if tool == "WebFetch":
        found = DOMAIN.fullmatch(argument.strip())
        if found is None:
            raise ValueError("write WebFetch, or WebFetch(domain:example.com), which includes its subdomains")
        return Rule(text, tool, domain=found[1].lower())
    if tool in PATH_TOOLS:
        raise ValueError(
            f"a path can be reached by other names, by links and by a shell: write {tool}, which holds every call of it"
        )
    if tool in SHELL_TOOLS | OTHER_SHELLS:
        raise ValueError(
            f"a rule for Bash holds {tool} too: write Bash({argument}), or {tool}, which holds every call of it"
        )
    raise ValueError(f"the arguments of {tool} are not compared: write {tool}, which holds every call of it")


def _check_name(tool: str) -> None:
    """Raises ValueError for what is no tool's name, or looks like another one misspelled."""
    similar = {name.lower(): name for name in KNOWN}
    close = similar.get(tool.lower()) or next(iter(difflib.get_close_matches(tool, KNOWN, 1, 0.8)), None)
    if close is not None:
        raise ValueError(f"there is no tool {tool}: write {close}")
    if not TOOL.fullmatch(tool):
        raise ValueError("it names no tool: write a name such as Bash, ExitPlanMode or mcp__server__tool")


def _mcp_rule(text: str, tool: str, argument: str | None) -> Rule:
    if argument is not None:
        raise ValueError(f"the arguments of an MCP tool are not compared: write {tool}, which holds every call of it")
    if not MCP.fullmatch(tool) or tool.strip("_*") == "mcp":
        raise ValueError("write mcp__server__tool, or mcp__server__* for every tool of that server")
    return Rule(text, tool, mcp=tool)


def _is_in_domain(url: object, domain: str) -> bool:
    """An address that is not plainly elsewhere."""
    found = PLAIN_URL.fullmatch(url) if isinstance(url, str) else None
    if found is None:
        return True
    host = found[1].lower().rstrip(".")
    return host == domain or host.endswith("." + domain)
