"""What the examination of a shell text offers to the modules that know what one program does with its arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.words import Word


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command that a text runs. `name`: without its path, in lower case. `words`: its own name first. `documents`: as in
    `Command`. `certain`: False where it is not known that these words are run at all: they are the arguments of a program
    that turbo does not know. Then only a match holds, not a doubt."""

    name: str
    words: Sequence[Word]
    documents: Sequence[str | None] = ()
    certain: bool = True

    def doubt(self, why: str) -> None:
        """Something runs that cannot be read. Raises Unreadable, if this command itself is certain."""
        if self.certain:
            raise Unreadable(why)


class Examiner(Protocol):
    def text(self, text: str) -> None:
        """A shell runs this text. Raises Unreadable."""

    def maybe_text(self, text: str) -> None:
        """A shell may run this text."""

    def run(self, words: Sequence[Word], documents: Sequence[str | None] = (), *, certain: bool = True) -> None:
        """These words are run, the first one is the program. Raises Unreadable."""

    def match(self, words: Sequence[Word]) -> None:
        """Compares these words with the rules."""

    def match_without_options(self, words: Sequence[Word]) -> None:
        """Compares these words with the rules, with and without the options and their values."""

    def arguments(self, invocation: Invocation, start: int = 1) -> None:
        """Words from `start` on that an unknown program may run, or hand to a shell."""

    def assignment(self, word: Word, *, certain: bool = True) -> None:
        """A variable is set. Raises Unreadable if that runs something which cannot be read."""


Handler = Callable[[Examiner, Invocation], None]
"""What a program does with its arguments."""
