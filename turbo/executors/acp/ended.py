"""A run of an agent over ACP that is over: what is known of it, before it is judged (turbo.executors.acp.verdict)."""

from dataclasses import dataclass, field

from turbo.config.acp import AcpProfile, FailureTell, ToldBy
from turbo.executors.acp.messages import AUTH_REQUIRED, RpcError
from turbo.executors.acp.stream import AcpStream
from turbo.executors.acp.talk import Heard, TalkStep
from turbo.process.running import Ending

SAID_CHARACTERS = 2000
LOGGED_CHARACTERS = 8192


@dataclass(frozen=True, slots=True)
class EndedAcp:
    """All that the verdict may use. `resumed`: it was to go on with an earlier session. `checked`: a check decides on a success."""

    ended_by: Ending
    returncode: int | None
    heard: Heard = field(default_factory=Heard)
    profile: AcpProfile | None = None
    stderr: str = ""
    exit_text: str = ""
    resumed: bool = False
    checked: bool = False

    @property
    def stream(self) -> AcpStream:
        return self.heard.stream

    @property
    def error(self) -> RpcError | None:
        return self.heard.error

    @property
    def text(self) -> str:
        """The agent's own words about a failure: its error, why turbo did not go on, or its standard error."""
        if self.error is not None:
            return self.error.text
        return self.heard.unfit or self.stderr

    @property
    def reason(self) -> str | None:
        """Why the turn ended. None: the agent has not said, or it said `cancelled` only because turbo ended it."""
        ended = self.heard.stopping or (
            self.ended_by in (Ending.WALL, Ending.SILENT) and self.heard.reason == "cancelled"
        )
        return None if ended else self.heard.reason

    @property
    def done(self) -> bool:
        """It says that the turn is done, and was not told to stop before."""
        return self.reason == "end_turn"

    @property
    def prompted(self) -> bool:
        return self.heard.step in (TalkStep.PROMPTED, TalkStep.OVER)

    @property
    def conversation(self) -> bool:
        """The model has answered, now or in the session that was resumed: a fault may be in what was said."""
        return self.resumed or not self.stream.silent

    @property
    def means(self) -> ToldBy | None:
        """What the failure is, by the agent's profile; None: no tell applies, or it has not failed."""
        for tell in self.profile.failures if self.profile is not None else ():
            if self._applies(tell):
                return tell.means
        if self.error is not None and self.error.code == AUTH_REQUIRED:
            return ToldBy.LOGIN
        return None

    def _applies(self, tell: FailureTell) -> bool:
        error = self.error
        if tell.code or tell.data or tell.text:
            if error is None or (tell.code and error.code not in tell.code):
                return False
            if any(_at(error.data, path) != value for path, value in tell.data.items()):
                return False
            if tell.text and not _any(tell.text, error.text):
                return False
        elif error is None and not (tell.said and self.done):
            return False  # standard error tells why, not that it has failed
        if tell.said and not (self.done and _begins(tell.said, self.stream.text[:SAID_CHARACTERS])):
            return False
        if tell.logged and not _any(tell.logged, self.stderr[-LOGGED_CHARACTERS:]):
            return False
        return not (tell.unused and self.heard.result.get("usage"))


def _at(data: object, path: str) -> str | None:
    """The value at a dotted path, as text."""
    for key in path.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return str(data) if isinstance(data, str | int | float) else None


def _any(phrases: list[str], text: str) -> bool:
    folded = text.casefold()
    return any(phrase.casefold() in folded for phrase in phrases)


def _begins(phrases: list[str], text: str) -> bool:
    folded = text.lstrip().casefold()
    return any(folded.startswith(phrase.casefold()) for phrase in phrases)
