"""A run of the Claude CLI that is over: what is known of it, before it is judged (turbo.executors.claude.verdict)."""

from collections.abc import Collection
from dataclasses import dataclass, field

from turbo.domain.question import Question
from turbo.executors.claude.stream import Result, Transcript
from turbo.process.running import Ending

STARTUP_CHARACTERS = 32_768
"""How much of a failed start's output is searched for its cause."""


@dataclass(frozen=True, slots=True)
class EndedRun:
    """All that the verdict may use. `login_refused`: turbo ended the CLI, which kept retrying a refused login. `resumed`:
    it was to go on with an earlier session. `asked`: what the call asks for which it stopped, if turbo has deferred it. `unfit`:
    why turbo gave this CLI no prompt. `questions_denied`: how many questions of the agent no person has seen."""

    ended_by: Ending
    returncode: int | None
    transcript: Transcript = field(default_factory=Transcript)
    stderr: str = ""
    exit_text: str = ""
    login_refused: bool = False
    resumed: bool = False
    asked: Question | None = None
    unfit: str | None = None
    questions_denied: int = 0

    @property
    def result(self) -> Result | None:
        return self.transcript.result

    @property
    def text(self) -> str:
        """The CLI's own message about the run: the result's, else stderr's."""
        if self.result is not None and (self.result.text or self.result.errors):
            return self.result.text or "; ".join(self.result.errors)
        return self.stderr

    @property
    def error(self) -> str | None:
        """The CLI's name of the API error. None if it gave none, or only `unknown`."""
        return self.transcript.error if self.transcript.error != "unknown" else None

    def named(self, names: Collection[str]) -> bool:
        """The run ended in an API error with one of these names."""
        return self.failed and (self.transcript.error in names or self.transcript.api_error in names)

    @property
    def failed(self) -> bool:
        """There is a result, and it is a failure that no signal caused."""
        return self.result is not None and not self.result.succeeded and not self._aborted

    @property
    def startup_output(self) -> str:
        """The CLI's output if it failed before an agent started, whose text could be anything; else empty."""
        if self.transcript.begun or self.returncode == 0:
            return ""
        return f"{self.text[:STARTUP_CHARACTERS]}\n{self.stderr[:STARTUP_CHARACTERS]}"

    @property
    def conversation(self) -> bool:
        """The model has answered, now or in the session that was resumed: a fault may be in what was said."""
        return self.resumed or self.transcript.answers > 0

    @property
    def interrupted(self) -> bool:
        return self.result is None or self._aborted

    @property
    def _aborted(self) -> bool:
        return self.result is not None and (self.result.terminal_reason or "").startswith("aborted")
