"""Words of a shell text, after quote removal: literal text, and holes where only the shell knows the text.

gi't' "push"      two literal words
git $X            a literal word, and one that is Hole.MANY: unquoted, so it may become several words or none
git "$X"          … Hole.ONE: always one word, or a part of one
gi{t,x} *.py      braces are expanded; a pathname pattern is Hole.FILES
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

MOST_BRACES = 64
"""Words that one word's braces may make. Beyond that, the word is a hole."""

MOST_GROUPS = 64
"""Of braces in one word."""

MOST_ATOMS = 1000
"""Characters of a word with braces."""

ANSI_C = re.compile(
    r"\\(?:([abeEfnrtv\\'\"?])|([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{1,4})|U([0-9a-fA-F]{1,8})|c(.))",
    re.DOTALL,
)
SIMPLE_ESCAPES = dict(zip("abeEfnrtv\\'\"?", "\a\b\x1b\x1b\f\n\r\t\v\\'\"?", strict=True))


class Hole(Enum):
    """A part of a word that the text does not spell out."""

    ONE = "one"  # quoted: any text within the word
    MANY = "many"  # unquoted: it may end the word and begin others, or vanish
    FILES = "files"  # a pathname pattern: each word that it makes begins with the same text


@dataclass(frozen=True, slots=True)
class Quoted:
    """Literal text that no expansion touches."""

    text: str


VANISHING = ((Hole.MANY,), (Hole.FILES,))

Atom = str | Quoted | Hole
"""One unquoted character, quoted text, or a hole."""


@dataclass(frozen=True, slots=True)
class Word:
    """`bare`: without quotes and holes, as reserved words and assignments must be. `start`: its offset in bytes."""

    parts: tuple[str | Hole, ...]
    start: int = -1
    bare: bool = False

    @property
    def literal(self) -> str | None:
        """The word's text; None with a hole in it."""
        return "".join(self.parts) if all(isinstance(part, str) for part in self.parts) else None  # type: ignore[arg-type]

    @property
    def splits(self) -> bool:
        """It may become several words, or none."""
        return Hole.MANY in self.parts

    @property
    def head(self) -> str:
        """The literal text that it begins with."""
        return self.parts[0] if self.parts and isinstance(self.parts[0], str) else ""

    @property
    def tail(self) -> str:
        """The literal text that it ends with."""
        return self.parts[-1] if self.parts and isinstance(self.parts[-1], str) else ""

    def after(self, length: int) -> "Word":
        """Without the first characters, as far as they are literal."""
        if not self.head:
            return Word(self.parts, self.start)
        return Word(tuple(part for part in (self.head[length:], *self.parts[1:]) if part != ""), self.start)

    @property
    def as_text(self) -> str:
        """As the text of a shell would spell it: a hole is a variable."""
        return "".join(part if isinstance(part, str) else "$_" for part in self.parts)


UNKNOWN = Word((Hole.MANY,))
"""Words that come from somewhere else: the input of xargs, the arguments of an alias."""


def literal_word(text: str) -> Word:
    return Word((text,) if text else ())


def words_of(atoms: Sequence[Atom], start: int) -> list[Word]:
    """The word, or the words that its braces make."""
    bare = all(isinstance(atom, str) for atom in atoms)
    return [Word(_parts(expanded), start, bare) for expanded in _expanded(list(atoms))]


def ansi_c(text: str) -> str:
    """The inside of `$'…'`, as bytes in Latin-1. Raises ValueError for an escape that shells read in different ways."""
    pieces, at = [], 0
    while (found := text.find("\\", at)) >= 0:
        pieces.append(text[at:found])
        escape = ANSI_C.match(text, found)
        if escape is None or escape[6] is not None:
            raise ValueError("an escape that shells read in different ways")
        pieces.append(_escaped(escape))
        at = escape.end()
    decoded = "".join([*pieces, text[at:]])
    if "\0" in decoded:
        raise ValueError("a NUL ends the word in some shells")
    return decoded


def _escaped(escape: re.Match[str]) -> str:
    simple, octal, byte, short, long, _ = escape.groups()
    if simple is not None:
        return SIMPLE_ESCAPES[simple]
    if octal is not None:
        return chr(int(octal, 8) & 0xFF)
    if byte is not None:
        return chr(int(byte, 16))
    return chr(int(short or long, 16)).encode("utf-8").decode("latin-1")


def _parts(atoms: Sequence[Atom]) -> tuple[str | Hole, ...]:
    """Neighbouring text joined; a tilde and pathname patterns become holes. Text is bytes in Latin-1 until here."""
    parts: list[str | Hole] = []
    closing = len(atoms) - 1 - next((i for i, atom in enumerate(reversed(atoms)) if atom == "]"), len(atoms))
    for at, atom in enumerate(atoms):
        part: str | Hole
        if isinstance(atom, Quoted):
            part = atom.text
        elif (atom == "~" and at == 0 and len(atoms) > 1) or (atom == "~" and len(atoms) == 1):
            part = Hole.ONE
        elif isinstance(atom, str) and (atom in "*?" or (atom == "[" and closing > at)):
            part = Hole.FILES
        else:
            part = atom
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] += part
        elif part != "" and not (parts and parts[-1] is part):
            parts.append(part)
    return tuple(
        part if isinstance(part, Hole) else part.encode("latin-1").decode("utf-8", "replace") for part in parts
    )


def _expanded(atoms: list[Atom]) -> list[list[Atom]]:
    """Brace expansion. A sequence such as {1..9} is a hole."""
    if "{" not in atoms:
        return [atoms]
    if len(atoms) > MOST_ATOMS:
        return [[Hole.MANY]]
    done: list[list[Atom]] = []
    left = [atoms]
    for _ in range(MOST_GROUPS):
        if not left:
            return done
        current = left.pop()
        group = _group(current)
        if group is None:
            done.append(current)
        else:
            begin, end, choices = group
            left += [[*current[:begin], *choice, *current[end + 1 :]] for choice in reversed(choices)]
        if len(done) + len(left) > MOST_BRACES:
            break
    return [[Hole.MANY]]


def _group(atoms: list[Atom]) -> tuple[int, int, list[list[Atom]]] | None:
    """The first group of braces that expands: where it begins and ends, and its choices."""
    opened: list[tuple[int, list[int], list[int]]] = []  # where it begins, its commas, its pairs of dots
    found: tuple[int, int, list[int]] | None = None
    for at, atom in enumerate(atoms):
        if atom == "{":
            opened.append((at, [], []))
        elif atom == "," and opened:
            opened[-1][1].append(at)
        elif atom == "." and opened and atoms[at - 1] == ".":
            opened[-1][2].append(at)
        elif atom == "}" and opened:
            begin, commas, dots = opened.pop()
            if (commas or dots) and (found is None or begin < found[0]):
                found = (begin, at, commas)
    if found is None:
        return None
    begin, end, commas = found
    if not commas:
        return begin, end, [[Hole.ONE]]
    edges = [begin, *commas, end]
    return begin, end, [atoms[left + 1 : right] for left, right in pairwise(edges)]


def joined(words: Sequence[Word]) -> Iterator[str | Hole]:
    """The words as one text, with a space between two of them. A hole that may vanish takes its spaces with it."""
    for at, word in enumerate(words):
        if at and word.parts[:1] not in VANISHING and words[at - 1].parts[-1:] not in VANISHING:
            yield " "
        yield from word.parts
