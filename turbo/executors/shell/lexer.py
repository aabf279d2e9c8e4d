"""Words, quotes, substitutions and here-documents of a shell text: the lexical half of `reader`."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from turbo.executors.shell.words import Atom, Hole, Quoted, Word, ansi_c, words_of

MOST_DEPTH = 40
"""Of substitutions inside substitutions."""

MOST_WORDS = 5_000

MOST_REREAD = 12
"""Times that what looked like arithmetic is read again as commands."""

BLANK = " \t"
META = " \t\n;&|()<>"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SUBSCRIPT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\[")
DELIMITER = re.compile(
    r"(?:([A-Za-z0-9_.+-]{1,60})|'([A-Za-z0-9_.+ -]{1,60})'|\"([A-Za-z0-9_.+ -]{1,60})\")(?=[ \t\n;&|<>)]|$)"
)
SUBSTITUTION = re.compile(r"\$\(|`|\$\{[\s|]")
SPECIAL = "@*#?-$!0123456789"


class Unreadable(ValueError):
    """Says why, for tests and for people who wonder why a call was held."""


@dataclass(slots=True)
class Command:
    """`words`: with its assignments. `documents`: the here-documents and here-strings that it gets; None for one with
    unknown text."""

    words: list[Word] = field(default_factory=list)
    documents: list[str | None] = field(default_factory=list)


@dataclass(slots=True)
class Reading:
    """`starts`: where commands may begin: the offsets of first words, of words after assignments, and of reserved words.
    `evaluates`: it has arithmetic, which runs the substitutions in a variable's text. `substitutes`: quoted text has some."""

    commands: list[Command] = field(default_factory=list)
    starts: set[int] = field(default_factory=set)
    evaluates: bool = False
    substitutes: bool = False


@dataclass(slots=True)
class HereDocument:
    delimiter: str
    quoted: bool
    tabs: bool
    at: int
    command: Command


class Lexer(ABC):
    """Reads one text, once. Its offsets are bytes: the text is decoded as Latin-1 while it is read."""

    def __init__(self, text: str) -> None:
        self._text = text.encode("utf-8").decode("latin-1")
        self._at = 0
        self._limit = len(self._text)
        self._depth = 0
        self._words = 0
        self._reread = 0
        self._reading = Reading()

    @abstractmethod
    def _list(self, end: str) -> None:
        """Commands up to `end`: a closing parenthesis, or the limit."""

    def _peek(self, length: int = 1) -> str:
        return self._text[self._at : min(self._at + length, self._limit)]

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        return pattern.match(self._text, self._at, self._limit)

    # ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _word(self) -> list[Word]:
        """The word at this place; several where its braces make several."""
        start = self._at
        atoms: list[Atom] = []
        while self._at < self._limit:
            char = self._text[self._at]
            if char in "<>" and self._peek(2)[1:] == "(":
                self._at += 2
                self._list(")")
                atoms.append(Hole.ONE)
            elif char in META:
                break
            else:
                self._unquoted(char, atoms)
        if SUBSCRIPT.match(raw := self._text[start : self._at]) and "]" not in raw:
            raise Unreadable("a subscript with a blank or an operator in it")
        made = words_of(atoms, start)
        self._note("".join(atom.text for atom in atoms if isinstance(atom, Quoted)))
        self._words += len(made)
        if self._words > MOST_WORDS:
            raise Unreadable("too many words")
        return made

    def _note(self, quoted: str) -> None:
        if SUBSTITUTION.search(quoted):
            self._reading.substitutes = True

    def _unquoted(self, char: str, atoms: list[Atom]) -> None:
        if char == "\\":
            escaped = self._peek(2)[1:]
            if not escaped:
                raise Unreadable("a backslash at the end")
            self._at += 2
            if escaped != "\n":
                atoms.append(Quoted(escaped))
        elif char == "'":
            atoms.append(Quoted(self._until_quote()))
        elif char == '"':
            self._at += 1
            self._double(atoms)
        elif char == "`":
            self._backticks()
            atoms.append(Hole.MANY)
        elif char == "$":
            self._dollar(atoms, quoted=False)
        else:
            atoms.append(char)
            self._at += 1

    def _until_quote(self) -> str:
        closing = self._text.find("'", self._at + 1, self._limit)
        if closing < 0:
            raise Unreadable("a quote without its end")
        text = self._text[self._at + 1 : closing]
        self._at = closing + 1
        return text

    def _double(self, atoms: list[Atom]) -> None:
        """After the opening quote, up to its end."""
        atoms.append(Quoted(""))
        while self._at < self._limit:
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return
            self._inside_quotes(char, atoms)
        raise Unreadable("a double quote without its end")

    def _inside_quotes(self, char: str, atoms: list[Atom]) -> None:
        """One step inside double quotes or a here-document."""
        if char == "\\":
            escaped = self._peek(2)[1:]
            if not escaped:
                raise Unreadable("a backslash at the end")
            self._at += 2
            if escaped != "\n":
                atoms.append(Quoted(escaped if escaped in '$`"\\' else "\\" + escaped))
        elif char == "`":
            self._backticks()
            atoms.append(Hole.ONE)
        elif char == "$":
            self._dollar(atoms, quoted=True)
        else:
            stop = self._at + 1
            while stop < self._limit and self._text[stop] not in '\\`$"':
                stop += 1
            atoms.append(Quoted(self._text[self._at : stop]))
            self._at = stop

    # ── substitutions ───────────────────────────────────────────────────────────────────────────────────────────────

    def _dollar(self, atoms: list[Atom], *, quoted: bool) -> None:
        self._deeper()
        self._dollar_at_depth(atoms, quoted=quoted)
        self._depth -= 1

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise Unreadable("substitutions are nested too deeply")

    def _dollar_at_depth(self, atoms: list[Atom], *, quoted: bool) -> None:
        hole = Hole.ONE if quoted else Hole.MANY
        following = self._peek(2)[1:]
        if following == "(":
            if self._peek(3) == "$((":
                self._at += 3
                if self._arithmetic():
                    atoms.append(hole)
                    return
                self._at -= 1
            else:
                self._at += 2
            self._list(")")
            atoms.append(hole)
        elif following == "{":
            self._at += 2
            self._expansion(quoted=quoted)
            atoms.append(hole)
        elif following == "[":
            raise Unreadable("arithmetic in $[ ]")
        elif following == "'" and not quoted:
            self._at += 1
            atoms.append(Quoted(self._ansi_c()))
        elif following == '"' and not quoted:
            self._at += 2
            self._double(atoms)
        elif following and following in SPECIAL:
            self._at += 2
            atoms.append(Hole.MANY if following == "@" else hole)
        elif found := NAME.match(self._text, self._at + 1, self._limit):
            self._at = found.end()
            if self._peek() == "[":
                raise Unreadable("a subscript that only some shells know")
            atoms.append(hole)
        elif self._peek(3) == "$\\\n":
            raise Unreadable("a line that goes on inside an expansion")
        elif following and following in "=~^+:":
            raise Unreadable("an expansion that only some shells know")
        else:
            self._at += 1
            atoms.append(Quoted("$"))

    def _ansi_c(self) -> str:
        begin = self._at = self._at + 1
        while self._at < self._limit and self._text[self._at] != "'":
            self._at += 2 if self._text[self._at] == "\\" else 1
        if self._at >= self._limit:
            raise Unreadable("a quote without its end")
        self._at += 1
        if "\\'" in self._text[begin : self._at]:
            raise Unreadable("a quote inside $'…', which plain shells end there")
        try:
            return ansi_c(self._text[begin : self._at - 1])
        except ValueError as error:
            raise Unreadable(str(error)) from None

    def _expansion(self, *, quoted: bool) -> None:
        """`${…}`, after its opening brace. What its text is does not matter; what it runs does."""
        if not re.match(r"[A-Za-z0-9_@*#?$!-]", self._peek()):
            raise Unreadable("an expansion that only some shells know")
        begin = self._at
        ignored: list[Atom] = []
        while self._at < self._limit:
            char = self._text[self._at]
            if char == "}":
                self._check_expansion(self._text[begin : self._at])
                self._note("".join(atom.text for atom in ignored if isinstance(atom, Quoted)))
                self._at += 1
                return
            if char in "'\"" and quoted:
                raise Unreadable("quotes inside an expansion inside quotes")
            if char == "{" or (char in "<>" and self._peek(2)[1:] == "("):
                raise Unreadable("an expansion that only some shells know")
            if char == "$" and self._peek(2) == "$'":
                raise Unreadable("quotes inside an expansion")
            self._unquoted(char, ignored)
        raise Unreadable("an expansion without its end")

    def _check_expansion(self, inside: str) -> None:
        if re.search(r"@[A-Za-z]$", inside):
            raise Unreadable("an expansion that evaluates a variable's text")
        if re.match(r"[#!]?[A-Za-z0-9_]+(?:\[(?![@*0-9]*\])|:(?![-=?+]))", inside):
            self._reading.evaluates = True

    def _backticks(self) -> None:
        opening = self._at
        closing = self._text.find("`", opening + 1, self._limit)
        if closing < 0:
            raise Unreadable("a backtick without its end")
        if self._text.find("\\", opening, closing) >= 0:
            raise Unreadable("a backslash between backticks")
        self._at = opening + 1
        self._within(closing)
        self._at = closing + 1

    def _within(self, limit: int) -> None:
        """Commands from here to the limit."""
        outer, self._limit = self._limit, limit
        self._list("")
        self._limit = outer

    def _arithmetic(self, forbidden: str = "'\"\\;") -> bool:
        """After `((`: reads up to `))`. False, at the same place, if these are two parentheses with commands in them."""
        begin, commands, depth = self._at, len(self._reading.commands), 2
        ignored: list[Atom] = []
        while self._at < self._limit:
            char = self._text[self._at]
            if char in forbidden or (char == "#" and not re.match(r"[A-Za-z0-9{$]", self._text[self._at - 1])):
                break
            if char == "(":
                depth += 1
                self._at += 1
            elif char == ")":
                depth -= 1
                self._at += 1
                if depth == 1:
                    if self._peek() != ")":
                        break
                    self._at += 1
                    if re.search(r"[A-Za-z_$]", self._text[begin : self._at]):
                        self._reading.evaluates = True
                    return True
            else:
                self._unquoted(char, ignored)
        self._at = begin
        del self._reading.commands[commands:]
        self._reread += 1
        if self._reread > MOST_REREAD:
            raise Unreadable("parentheses that are hard to tell from arithmetic")
        return False

    # ── here-documents ──────────────────────────────────────────────────────────────────────────────────────────────

    def _document_operator(self, command: Command, *, tabs: bool) -> HereDocument:
        """After `<<`: its delimiter."""
        while self._peek() and self._peek() in BLANK:
            self._at += 1
        found = self._matched(DELIMITER)
        if found is None:
            raise Unreadable("a here-document with an unusual delimiter")
        begin, self._at = self._at, found.end()
        return HereDocument(found[1] or found[2] or found[3], found[1] is None, tabs, begin, command)

    def _documents(self, pending: list[HereDocument]) -> None:
        """At the newline that begins their bodies: reads them all, and stops after the last delimiter."""
        if self._text.find("\n", pending[0].at, self._at) >= 0:
            raise Unreadable("a here-document that begins inside another word")
        self._at += 1
        for document in pending:
            begin = self._at
            while True:
                if self._at >= self._limit:
                    raise Unreadable("a here-document without its end")
                newline = self._text.find("\n", self._at, self._limit)
                stop = self._limit if newline < 0 else newline
                line = self._text[self._at : stop]
                if (line.lstrip("\t") if document.tabs else line) == document.delimiter:
                    break
                if line.endswith("\\") and not document.quoted:
                    raise Unreadable("a here-document with a line that goes on")
                self._at = stop + 1
            end, after = self._at, stop
            self._body(document, begin, end)
            self._at = min(after + 1, self._limit)

    def _body(self, document: HereDocument, begin: int, end: int) -> None:
        text = self._text[begin:end]
        if document.quoted or not re.search(r"[\\$`]", text):
            decoded = text.encode("latin-1").decode("utf-8", "replace")
            document.command.documents.append(decoded)
            self._note(decoded)
            return
        document.command.documents.append(None)
        atoms: list[Atom] = []
        outer, self._limit, self._at = self._limit, end, begin
        while self._at < self._limit:
            self._inside_quotes(self._text[self._at], atoms)
        self._limit = outer
        self._note("".join(atom.text for atom in atoms if isinstance(atom, Quoted)))
