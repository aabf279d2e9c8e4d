"""Patterns of approval rules, compared with words that may have holes.

A `*` in a pattern stands for any text. A hole in the words stands for any text too. A pattern matches words if it matches them
with some text in the holes. The comparison is linear in the length of the words: a set of positions in the pattern, kept as
the bits of one integer, moves along them.
"""

import re
from collections.abc import Sequence

from turbo.executors.shell.names import names
from turbo.executors.shell.words import Word, joined

FORBIDDEN = re.compile(r"""['"\\`$;&|<>()\x00-\x08\x0a-\x1f\x7f]""")
GRAMMAR = names("if then elif else fi for select while until do done case esac in function time coproc { } ! [[ ]] ( )")
MOST_PATTERN = 1000


class Pattern:
    """The inside of `Bash(…)`: the words of one simple command, without quotes, with `*` for any text.

    A space and `*` at the end, and `:*`, match nothing more as well: `git push *` matches `git push`. The command may be given
    with its path. Raises ValueError with one sentence about a pattern that cannot be a simple command."""

    def __init__(self, text: str) -> None:
        words = _checked(text).split()
        self.head = words[0]
        """The pattern of the command's name."""
        self.open_head = "*" in self.head
        pattern = " ".join(words)
        optional = pattern.endswith(" *")
        fixed = pattern.removesuffix(" *")
        self._ends = 1 << len(fixed)
        if optional:
            fixed += " *"
            self._ends |= 1 << (len(fixed) - 1) | 1 << len(fixed)
        self._stars = sum(1 << at for at, char in enumerate(fixed) if char == "*")
        self._places: dict[str, int] = {}
        for at, char in enumerate(fixed):
            if char != "*":
                self._places[char] = self._places.get(char, 0) | 1 << at
        self._length = len(fixed)

    def matches(self, words: Sequence[Word]) -> bool:
        """With some text in the words' holes."""
        at = self._closed(1)
        everything = (1 << (self._length + 1)) - 1
        for part in joined(words):
            if isinstance(part, str):
                for char in part:
                    at = self._closed((at & self._places.get(char, 0)) << 1 | (at & self._stars))
                    if not at:
                        return False
            else:
                lowest = at & -at
                at = everything & ~(lowest - 1)
        return bool(at & self._ends)

    def _closed(self, at: int) -> int:
        """With the positions after each star that is reached: a star may stand for nothing."""
        while (more := at | (at & self._stars) << 1) != at:
            at = more
        return at


def _checked(text: str) -> str:
    """With `:*` at the end in its other spelling. Raises ValueError."""
    if not text.strip():
        raise ValueError("it names no command: write Bash to hold every call, or Bash(git push *)")
    if len(text) > MOST_PATTERN:
        raise ValueError(f"it is longer than {MOST_PATTERN} characters")
    if forbidden := FORBIDDEN.search(text):
        raise ValueError(
            f"{forbidden[0]!r} cannot stand in it: write the words of one simple command without quotes, as in Bash(git push *)"
        )
    if text.endswith(":*"):
        text = text.removesuffix(":*").rstrip() + " *"
    head = text.split()[0]
    if ":*" in text:
        raise ValueError("':*' is only understood at its end: write a space and * instead")
    if head in GRAMMAR:
        raise ValueError(f"{head} is a word of the shell's grammar, not a command: name the command that it runs")
    if "=" in head:
        raise ValueError("it begins with an assignment: name the command alone, assignments before it are seen through")
    if "/" in head:
        raise ValueError(
            f"it begins with a path: write {head.rpartition('/')[2] or 'the name'}, which holds it under every path"
        )
    return text
