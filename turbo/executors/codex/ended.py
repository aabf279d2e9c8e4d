"""A run of the Codex CLI that is over: what is known of it, before it is judged (turbo.executors.codex.verdict)."""

from dataclasses import dataclass, field

from turbo.executors.codex.rollout import Rollout
from turbo.executors.codex.stream import CodexStream
from turbo.process.running import Ending


@dataclass(frozen=True, slots=True)
class EndedCodex:
    """All that the verdict may use. `gave_up`: turbo ended the CLI, which kept waiting for the service. `resumed`: it was to go on
    with an earlier thread. `asks`: a question of the agent reaches a person. `zone`: the CLI's TZ."""

    ended_by: Ending
    returncode: int | None
    stream: CodexStream = field(default_factory=CodexStream)
    rollout: Rollout = field(default_factory=Rollout)
    stderr: str = ""
    exit_text: str = ""
    gave_up: bool = False
    resumed: bool = False
    asks: bool = False
    zone: str | None = None

    @property
    def text(self) -> str:
        """The CLI's own message about the run: why the turn failed, else its last error, else stderr."""
        return self.stream.failed or self.stream.last_error or self.stderr

    @property
    def failed(self) -> bool:
        """The turn has failed, by the CLI's own word."""
        return self.stream.failed is not None

    @property
    def info(self) -> str | None:
        """The CLI's name of the error. None if it gave none."""
        return self.rollout.info if self.failed else None

    @property
    def status(self) -> int | None:
        """The HTTP status that ended the turn; None: not known."""
        return self.rollout.status if self.failed else None

    @property
    def conversation(self) -> bool:
        """The model has answered, now or in the thread that was resumed: a fault may be in what was said."""
        return self.resumed or self.stream.items > 0

    @property
    def startup_output(self) -> str:
        """The CLI's output if it failed before a turn began; else empty."""
        return self.stderr if not self.stream.began and self.returncode not in (0, None) else ""
