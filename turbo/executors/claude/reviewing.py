"""The Claude CLI as a reviewer: an agent that reads, searches, and gives a verdict.

    prompt ──▶ the CLI, with three tools ──StructuredOutput──▶ {pass, why}

It is strict: whatever the executor's section allows its tasks, a review has Read, Grep and Glob, inside the directory, and what would
need a permission is denied. Measured with 2.1.330: several `--tools` add up, so none may be in the executor's own command; a file
outside the directory, also through a link in it, is denied; the tools that are not named do not exist, for subagents either.
Nothing of the directory is obeyed, its CLAUDE.md included: the agent whose work it is may have written it. No session is kept.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from turbo.domain.outcome import FailureKind, ModelUsage, Outcome, OutcomeKind
from turbo.domain.run import Run
from turbo.executors.checks.judge import NotMade
from turbo.executors.checks.reviewer import Review, Reviewed
from turbo.executors.claude import verdict
from turbo.executors.claude.answer_form import FLAG, TOOL, tool_is_barred
from turbo.executors.claude.cli import DEFAULTS, Call, ClaudeCli
from turbo.executors.claude.ended import EndedRun
from turbo.executors.claude.flags import Flags, flags_of
from turbo.executors.claude.repository import UNTRUSTED
from turbo.executors.schemas.strict_json import NotJson, parsed
from turbo.process.environment import ChildEnvironment, EnvFile, EnvironmentRefused
from turbo.process.identity import Identity
from turbo.process.journal import Journal
from turbo.process.launch import fixed_program
from turbo.process.running import SpawnFailed

READ_TOOLS = ("Read", "Grep", "Glob")
WRITE_TOOLS = (
    "Bash",
    "PowerShell",
    "Edit",
    "Write",
    "NotebookEdit",
    "Agent",
    "Task",
    "Skill",
    "Workflow",
    "WebFetch",
    "WebSearch",
)
"""Denied by name as well. Of two rules for a tool, the one that denies counts."""

VERDICT_SCHEMA = {
    "type": "object",
    "properties": {
        "pass": {"type": "boolean", "description": "Whether the work is accepted as it is."},
        "why": {"type": "string", "description": "What was found, and what has to be changed."},
    },
    "required": ["pass", "why"],
    "additionalProperties": False,
}

_REFUSED_FLAGS = frozenset(
    (
        *(
            "--tools",
            "--allowedTools",
            "--allowed-tools",
            "--permission-mode",
            "--permission-prompt-tool",
            "--permission-prompts",
        ),
        *(
            "--dangerously-skip-permissions",
            "--allow-dangerously-skip-permissions",
            "--mcp-config",
            "--add-dir",
            "--settings",
        ),
        *("--setting-sources", "--plugin-dir", "--agents", "--agent", FLAG, "--input-format", "--output-format"),
        *("--continue", "-c", "--resume", "-r", "--session-id", "--fork-session", "--ide", "--chrome"),
    )
)
"""In the executor's own command they would give a review more than it may have, or another answer than a verdict."""


class ClaudeReviewer:
    """The reviews of one `claude` executor: with its login, model, budget and turns. See ClaudeExecutor for the arguments.

    `allowed_tools`: of these, the rules for READ_TOOLS. Raises ValueError (EnvironmentRefused is one) for a configuration with which
    nothing could be reviewed safely.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str] = ("claude",),
        *,
        journal: Journal,
        account: str | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        env_file: EnvFile | Path | None = None,
        model: str | None = None,
        allowed_tools: Sequence[str] = (),
        disallowed_tools: Sequence[str] = (),
        max_turns: int | None = None,
        max_budget_usd: float | None = None,
        silence_seconds: float | None = None,
        grace_seconds: float = 5.0,
        cli_max_retries: int = 2,
        run_as: Identity | None = None,
    ) -> None:
        check_reviewing(name, command, disallowed_tools)
        self.name = name
        self.account = account or name
        self._silence_seconds = silence_seconds
        allowed = [rule for rule in allowed_tools if rule.partition("(")[0].strip() in READ_TOOLS]
        self._flags = (
            *UNTRUSTED,
            *("--tools", ",".join(READ_TOOLS)),
            *(("--allowedTools", *allowed) if allowed else ()),
            *("--disallowedTools", *WRITE_TOOLS, *disallowed_tools),
            *("--permission-mode", "dontAsk", "--strict-mcp-config", "--no-session-persistence"),
            *(FLAG, json.dumps(VERDICT_SCHEMA)),
            *(("--model", model) if model else ()),
            *(("--max-turns", str(max_turns)) if max_turns is not None else ()),
        )
        self._budget = Flags(max_budget_usd=max_budget_usd)
        file = EnvFile(env_file) if isinstance(env_file, Path) else env_file
        defaults = DEFAULTS | {"CLAUDE_CODE_MAX_RETRIES": str(cli_max_retries)}
        environment = ChildEnvironment(defaults | dict(env or {}), file, owner=name, run_as=run_as)
        self._cli = ClaudeCli(
            name,
            fixed_program(command, cwd, name),
            environment,
            journal,
            grace_seconds=grace_seconds,
            run_as=run_as,
            account=self.account,
        )

    async def review(self, review: Review) -> Reviewed | NotMade | Outcome:
        """See `ReviewingAgent`."""
        left = await review.run.usd_left_of(self.account, review.used)
        if left is not None and left <= 0:
            return NotMade(f"reviewer {self.name} gave no verdict: a budget that covers it is spent")
        call = Call(
            flags=(*self._flags, *self._budget.within(left).plain()),
            stdin=review.prompt.encode("utf-8", "replace"),
            cwd=review.directory,
            wall_seconds=review.seconds,
            silence_seconds=self._silence_seconds,
        )
        # Its session and its start are not those of the run.
        run = Run(
            review.run.task,
            review.directory,
            review.log_path,
            review.run.stop,
            progress=lambda progress: review.progress(progress.text),
            uses=lambda so_far: review.run.uses(lambda: self._own(so_far())),
        )
        try:
            ended, log_path = await self._cli.call(run, call)
        except SpawnFailed as error:
            return self._without_verdict(Outcome.infrastructure(str(error)))
        except EnvironmentRefused as error:
            return self._without_verdict(Outcome.infrastructure(str(error)))
        usage = self._own(ended.transcript.usage)
        log = str(log_path) if log_path else None
        outcome = verdict.outcome(ended)
        if outcome.failure_kind is FailureKind.TIMED_OUT:
            outcome = replace(outcome, error=f"it was ended after {review.seconds:g} s (check.seconds)")
        if outcome.kind is not OutcomeKind.SUCCEEDED:
            return self._without_verdict(outcome, usage, log)
        try:
            passed, why = verdict_in(ended)
        except NotJson as error:
            return self._without_verdict(Outcome.failed(str(error)), usage, log)
        return Reviewed(passed, why, usage, log)

    def missing(self) -> str | None:
        """See `ReviewingAgent`."""
        return self._cli.missing(None)

    def _own(self, usage: tuple[ModelUsage, ...]) -> tuple[ModelUsage, ...]:
        return tuple(replace(used, executor=self.name, account=self.account) for used in usage)

    def _without_verdict(
        self, outcome: Outcome, usage: tuple[ModelUsage, ...] = (), log: str | None = None
    ) -> NotMade | Outcome:
        """The work cannot be blamed: the task goes back. After a failure of the review it rests before the next one."""
        why = f"reviewer {self.name} gave no verdict: {outcome.error or 'it was ended on request'}"
        if outcome.kind in (OutcomeKind.FAILED, OutcomeKind.TIMED_OUT):
            return NotMade(why, log=log, usage=usage)
        return Outcome(
            outcome.kind,
            error=why,
            failure_kind=outcome.failure_kind,
            usage=usage,
            resets_at=outcome.resets_at,
            needs_credits=outcome.needs_credits,
            account=self.account,
        )


def check_reviewing(name: str, command: Sequence[str], disallowed_tools: Sequence[str]) -> None:
    """Raises ValueError where a review could do more than read, or could not answer."""
    words = flags_of(command)
    for flag in words:
        if flag in _REFUSED_FLAGS:
            raise ValueError(
                f"executor {name}: {flag} in command does not go with reviews, which can only read: make another executor for its tasks"
            )
    if tool_is_barred(disallowed_tools, words):
        raise ValueError(f"executor {name}: its rules deny the tool {TOOL}, with which a reviewer gives its verdict")


def verdict_in(ended: EndedRun) -> tuple[bool, str]:
    """Of a review that has ended well. Raises NotJson."""
    assert ended.result is not None
    found = ended.result.structured
    if found is None:
        found = parsed(ended.result.text or "", "its answer")
    if not isinstance(found, dict) or set(found) != {"pass", "why"}:
        raise NotJson(f"its answer is not a verdict, {{pass, why}}: {str(found)[:200]}")
    if not isinstance(found["pass"], bool) or not isinstance(found["why"], str):
        raise NotJson(f"in its verdict, pass must be true or false and why a text: {str(found)[:200]}")
    return found["pass"], found["why"]
