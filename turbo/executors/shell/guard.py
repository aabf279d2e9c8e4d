"""Which approval rule holds a shell text.

The text is read (`reader`), the reading confirmed by a second parser (`syntax`), and every simple command compared with the rules.
Programs that run other programs or text are followed into what they run. The comparison ends in one of three ways:

    a rule matches a command, with some text for what the shell alone knows    held by that rule
    a part of the text cannot be read, and something is run by it              held by the first rule
    neither                                                                    not held

The work is counted and limited; a text that needs more is held.
"""

import re
from collections.abc import Sequence

from turbo.executors.shell import git_commands, inline, shells, wrappers
from turbo.executors.shell.data_commands import DATA, EVALUATING, data_option
from turbo.executors.shell.examiner import Handler, Invocation
from turbo.executors.shell.lexer import SUBSTITUTION, Command, Reading, Unreadable
from turbo.executors.shell.patterns import Pattern
from turbo.executors.shell.reader import ASSIGNMENT, Reader
from turbo.executors.shell.syntax import confirm
from turbo.executors.shell.variables import assigned
from turbo.executors.shell.words import Word, literal_word

MOST_TEXT = 64 * 1024
"""Bytes of a text. A longer one is held."""

MOST_WORK = 50_000
"""Words that are looked at and characters that are compared, in one call."""

MOST_TEXTS = 8
"""Texts inside texts: sh -c 'sh -c …'."""

HANDLERS: dict[str, Handler] = {
    **shells.HANDLERS,
    **wrappers.HANDLERS,
    **git_commands.HANDLERS,
    **inline.HANDLERS,
}
ALIVE = re.compile(r"[\s;&|<>()$`]")
CONTROL = re.compile(r"[\x00\x0b\x0c\x0d]")


class Guard:
    """The rules for shell texts, in order."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._patterns = tuple(patterns)

    def held_by(self, text: str) -> int | None:
        """The place of the rule that holds the text; None: none does. Never raises."""
        examination = Examination(self._patterns)
        try:
            examination.text(text)
        except (Unreadable, UnicodeError, RecursionError, MemoryError):
            return 0
        return 0 if examination.exhausted else examination.found


class Examination:
    """Of one text and the texts inside it. `found`: the first rule that matched. `steps`: the work so far."""

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._patterns = patterns
        self._open_heads = any(pattern.open_head for pattern in patterns)
        self._heads = frozenset(pattern.head.lower() for pattern in patterns)
        self._depth = 0
        self.found: int | None = None
        self.steps = 0

    @property
    def exhausted(self) -> bool:
        return self.steps > MOST_WORK

    # ── texts ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def text(self, text: str) -> None:
        """A shell runs this text. Raises Unreadable."""
        self._read(text, certain=True)

    def maybe_text(self, text: str) -> None:
        """A shell may run this text."""
        if ALIVE.search(text):
            try:
                self._read(text.lstrip("+!:; \t"), certain=False)
            except Unreadable:
                return

    def _read(self, text: str, *, certain: bool) -> None:
        self._work(len(text) // 16)
        if len(text) > MOST_TEXT or len(text.encode("utf-8", "replace")) > MOST_TEXT or self._depth > MOST_TEXTS:
            self.steps = MOST_WORK + 1
            raise Unreadable("too long, or texts inside texts inside texts")
        text = _one_kind_of_newline(text)
        reading = Reader(text).read()
        if certain:
            confirm(text, reading)
            _check_evaluation(reading)
        self._depth += 1
        for command in reading.commands:
            self._command(command, certain=certain)
        self._depth -= 1

    def _work(self, steps: int) -> None:
        self.steps += steps
        if self.exhausted:
            raise Unreadable("too much work")

    # ── commands ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _command(self, command: Command, *, certain: bool) -> None:
        at = 0
        while at < len(command.words) and ASSIGNMENT.match(command.words[at].head):
            self.assignment(command.words[at], certain=certain)
            at += 1
        self.run(command.words[at:], command.documents, certain=certain)

    def assignment(self, word: Word, *, certain: bool = True) -> None:
        """A variable is set."""
        try:
            assigned(self, word)
        except Unreadable:
            if certain or self.exhausted:
                raise

    def run(self, words: Sequence[Word], documents: Sequence[str | None] = (), *, certain: bool = True) -> None:
        """These words are run, the first one is the program."""
        self._work(1 + len(words))
        if not words:
            return None
        name = _name(words[0])
        if name is None:
            if certain:
                raise Unreadable("a command that only the shell knows")
            return None
        invocation = Invocation(name.lower().removesuffix(".exe"), words, documents, certain)
        match = self.match if invocation.name == "git" else self.match_without_options
        for spelling in {name, name.casefold(), invocation.name}:
            match([literal_word(spelling), *words[1:]])
        if found := re.match(r"git-(.+)", invocation.name):
            return self.run([literal_word("git"), literal_word(found[1]), *words[1:]], documents, certain=certain)
        handler = HANDLERS.get(invocation.name)
        if handler is not None:
            handler(self, invocation)
        elif inline.PYTHON.match(invocation.name):
            inline.python(self, invocation)
        elif invocation.name in DATA:
            self._data(invocation)
        else:
            self.arguments(invocation)
        return None

    def _data(self, invocation: Invocation) -> None:
        """A program that takes its arguments for data."""
        if data_option(invocation):
            invocation.doubt("an option that runs a program")
        if invocation.name not in EVALUATING:
            return
        for word in invocation.words[1:]:
            _, subscript, after = word.as_text.partition("[")
            if subscript and SUBSTITUTION.search(after):
                invocation.doubt("a subscript that is evaluated")
            self.assignment(word, certain=invocation.certain)

    def arguments(self, invocation: Invocation, start: int = 1) -> None:
        """Words from `start` on that an unknown program may run, or hand to a shell."""
        words = invocation.words
        self._work(len(words))
        for document in invocation.documents:
            self.maybe_text(document or "")
        for at in range(start, len(words)):
            word = words[at]
            name = _name(word)
            if name is not None and self._may_begin(name.lower()):
                self._maybe_run(words[at:])
            elif name is not None and self._may_begin(name.lower().lstrip("!:")):  # of an editor: :!git push
                self._maybe_run([literal_word(name.lstrip("!:")), *words[at + 1 :]])
            if not word.parts or (word.parts == (word.parts[0],) and not isinstance(word.parts[0], str)):
                continue
            text = word.as_text
            if ALIVE.search(text):
                self.maybe_text(text)
                for mark in "=:":
                    for inside in {text.partition(mark)[2], text.rpartition(mark)[2]} - {text, ""}:
                        self.maybe_text(inside)

    def _may_begin(self, name: str) -> bool:
        return self._open_heads or name in self._heads or name in HANDLERS or name.startswith("git-")

    def _maybe_run(self, words: Sequence[Word]) -> None:
        try:
            self.run(words, [None], certain=False)
        except Unreadable:
            if self.exhausted or shells.passes_text(words):
                raise

    # ── matches ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def match(self, words: Sequence[Word]) -> None:
        """Compares these words with the rules."""
        self._work(len(words) + sum(len(part) for word in words for part in word.parts if isinstance(part, str)) // 64)
        for place, pattern in enumerate(self._patterns):
            if self.found is not None and place >= self.found:
                return
            if pattern.matches(words):
                self.found = place

    def match_without_options(self, words: Sequence[Word]) -> None:
        """As they are, without the options, without the words after them too, and from each word on that may be the first one
        behind the options."""
        self.match(words)
        is_option = [word.head.startswith("-") and word.as_text != "-" for word in words]
        if not any(is_option):
            return
        plain = [at for at, option in enumerate(is_option) if not option]
        self.match([words[at] for at in plain])
        self.match([words[at] for at in plain if at == 0 or not is_option[at - 1] or "=" in words[at - 1].head])
        for at in range(2, len(words)):
            if not (is_option[at - 1] or is_option[at - 2]):
                return
            self.match([words[0], *words[at:]])


def _name(word: Word) -> str | None:
    """Of a program: without its path, and without zsh's `=`. None: only the shell knows it."""
    text = word.literal
    if text is None:
        _, slash, name = word.tail.rpartition("/")
        return name if slash and name and not word.splits and not _globs(word) else None
    return text.rpartition("/")[2].lstrip("=") if "/" in text else text.lstrip("=")


def _globs(word: Word) -> bool:
    return any(not isinstance(part, str) and part.value == "files" for part in word.parts)


def _one_kind_of_newline(text: str) -> str:
    """CRLF becomes LF where that changes nothing else. Raises Unreadable."""
    if "\r" in text and "\\\r" not in text and "<<" not in text:
        text = text.replace("\r\n", "\n")
    if found := CONTROL.search(text):
        raise Unreadable(f"the character {found[0]!r}")
    return text


def _check_evaluation(reading: Reading) -> None:
    """Arithmetic runs the substitutions in the text of a variable, even if that text was quoted."""
    if reading.evaluates and reading.substitutes:
        raise Unreadable("quoted substitutions beside arithmetic")
