"""A run of the Copilot CLI that is over: what is known of it, before it is judged (turbo.executors.copilot.verdict)."""

from dataclasses import dataclass, field

from turbo.executors.copilot.session_file import SessionUsage
from turbo.executors.copilot.stream import CopilotStream
from turbo.process.running import Ending


@dataclass(frozen=True, slots=True)
class EndedCopilot:
    """All that the verdict may use. `resumed`: it was to go on with an earlier session."""

    ended_by: Ending
    returncode: int | None
    stream: CopilotStream = field(default_factory=CopilotStream)
    used: SessionUsage = field(default_factory=SessionUsage)
    stderr: str = ""
    exit_text: str = ""
    resumed: bool = False

    @property
    def text(self) -> str:
        """The CLI's own message about the run: why the turn failed, else stderr."""
        return self.stream.error.message if self.stream.error is not None else self.stderr

    @property
    def failed(self) -> bool:
        """The turn has failed, by the CLI's own word."""
        return self.stream.error is not None

    @property
    def kind(self) -> str:
        """The CLI's kind of error. Empty: it told none."""
        return self.stream.error.kind if self.stream.error is not None else ""

    @property
    def code(self) -> str:
        """The service's code of the error. Empty: it gave none."""
        return self.stream.error.code if self.stream.error is not None else ""

    @property
    def status(self) -> int | None:
        """The HTTP status that ended the turn; None: not known."""
        return self.stream.error.status if self.stream.error is not None else None

    @property
    def conversation(self) -> bool:
        """The model has answered, now or in the session that was resumed: a fault may be in what was said."""
        return self.resumed or self.stream.items > 0

    @property
    def startup_output(self) -> str:
        """The CLI's output if it failed before the session had the prompt; else empty."""
        return self.stderr if not self.stream.began and self.returncode not in (0, None) else ""
