"""The simple commands of a shell text: every run of words between two operators, wherever it stands.

    a && b; if c; then d; fi          a, b, c, d
    echo "$(e)" `f` <(g) ${x:-$(h)}   echo, e, f, g, h
    case $x in i) j;; esac            j

The reader follows the shell's quoting to the letter, and of its grammar what decides where a command begins. Text that bash,
dash and zsh read in different ways, or that the reader does not know, raises Unreadable: what cannot be read cannot be cleared.
The reading is linear in the length of the text.
"""

import re
from dataclasses import dataclass, field

from turbo.executors.shell.lexer import BLANK, META, MOST_DEPTH, Command, HereDocument, Lexer, Reading, Unreadable
from turbo.executors.shell.names import names
from turbo.executors.shell.words import Word

ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\[[^\]]*\])?\+?=")
ARRAY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=$")
REDIRECT = re.compile(r"&>>?|<<<|<<-?|<>|<&|>&|>>|>\||<|>")
NUMBERS = re.compile(r"<[0-9]*-[0-9]*>")
OPERATOR = re.compile(r";;&|;;|;&|;|&&|&|\|\||\|&|\|")
EMPTY_PARENTHESES = re.compile(r"\([ \t]*\)")
DESCRIPTOR = re.compile(r"[0-9]+|\{[A-Za-z_][A-Za-z0-9_]*\}")
SUBSCRIPTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\[[^\]]*[A-Za-z_]")
NAMING = names("declare export getopts local mapfile read readarray readonly typeset unset wait")
COMPARISONS = frozenset(("-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-v"))
PASSED_OVER = names("if then elif else fi while until do done { } ! time")
"""Reserved words after which another command begins."""


@dataclass(slots=True)
class Scope:
    """One list of commands. `fresh`: a reserved word would be one here. `nested`: what is open in this list, the innermost last:
    a parenthesis, or a `case` with what it expects next."""

    end: str
    command: Command = field(default_factory=Command)
    fresh: bool = True
    timed: bool = False
    complete: bool = False
    nested: list[str] = field(default_factory=list)
    pending: list[HereDocument] = field(default_factory=list)

    @property
    def innermost(self) -> str:
        return self.nested[-1] if self.nested else ""


class Reader(Lexer):
    """`Reader(text).read()`: the commands of a text."""

    def read(self) -> Reading:
        """Raises Unreadable."""
        self._list("")
        return self._reading

    def _list(self, end: str) -> None:
        self._deeper()
        scope = Scope(end)
        while self._at < self._limit:
            if self._step(scope):
                break
        else:
            if end or scope.nested:
                raise Unreadable("it ends in the middle of a command")
            self._end_command(scope)
        if scope.pending:
            raise Unreadable("a here-document without its text")
        self._depth -= 1

    def _step(self, scope: Scope) -> bool:
        """One token. True: it ended the list."""
        char = self._peek()
        if char in BLANK:
            self._at += 1
        elif self._peek(2) == "\\\n":
            self._at += 2
        elif char == "\n":
            self._newline(scope)
        elif char == "#":
            newline = self._text.find("\n", self._at, self._limit)
            self._at = self._limit if newline < 0 else newline
        elif char == "(":
            self._open(scope)
        elif char == ")":
            return self._close(scope)
        elif (char in "<>" and self._peek(2)[1:] != "(") or self._peek(2) == "&>":
            self._redirect(scope)
        elif char in ";&|":
            self._operator(scope)
        else:
            self._next_word(scope)
        return False

    # ── operators ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _newline(self, scope: Scope) -> None:
        self._end_command(scope)
        if scope.pending:
            self._documents(scope.pending)
            scope.pending = []
        else:
            self._at += 1

    def _operator(self, scope: Scope) -> None:
        found = self._matched(OPERATOR)
        assert found is not None
        self._at = found.end()
        if found[0] == "&" and self._peek() == "!":
            raise Unreadable("&! is an operator in zsh alone")
        self._end_command(scope)
        if found[0] in (";;", ";&", ";;&"):
            if scope.innermost != "clause":
                raise Unreadable("the end of a clause outside case")
            scope.nested[-1] = "pattern"
        elif scope.innermost in ("case", "in") or (scope.innermost == "pattern" and found[0] != "|"):
            raise Unreadable("an operator inside the head of case")

    def _open(self, scope: Scope) -> None:
        command = scope.command
        if scope.innermost == "pattern" and not command.words:
            self._at += 1
        elif command.words and ARRAY.match(command.words[-1].literal or "") and self._adjoins(command.words[-1]):
            self._at += 1
            self._array()
        elif len(command.words) == 1 and (empty := self._matched(EMPTY_PARENTHESES)):
            self._at = empty.end()
            self._reading.starts.add(command.words[0].start)
            scope.command = Command()
            scope.fresh = True
        elif command.words or not scope.fresh:
            raise Unreadable("a parenthesis inside a command")
        elif self._peek(2) == "((" and self._double_parentheses():
            scope.fresh = True
        else:
            self._at += 1
            self._nest(scope, "(")

    def _nest(self, scope: Scope, what: str) -> None:
        scope.nested.append(what)
        if len(scope.nested) > MOST_DEPTH:
            raise Unreadable("commands are nested too deeply")

    def _adjoins(self, word: Word) -> bool:
        return word.bare and word.start + len((word.literal or "").encode()) == self._at

    def _double_parentheses(self, forbidden: str = "'\"\\;") -> bool:
        self._at += 2
        if self._arithmetic(forbidden):
            return True
        self._at -= 2
        return False

    def _close(self, scope: Scope) -> bool:
        self._end_command(scope)
        if scope.innermost == "(":
            scope.nested.pop()
        elif scope.innermost == "pattern":
            scope.nested[-1] = "clause"
        elif not scope.nested and scope.end == ")":
            self._at += 1
            return True
        else:
            raise Unreadable("a closing parenthesis too many")
        self._at += 1
        return False

    def _array(self) -> None:
        """The values of an array, after the opening parenthesis."""
        while self._at < self._limit:
            char = self._peek()
            if char == ")":
                self._at += 1
                return
            if char in BLANK or char == "\n":
                self._at += 1
            elif char in "#\\" and (char == "#" or self._peek(2) == "\\\n"):
                raise Unreadable("a comment or a continued line in an array")
            elif (char in META and self._peek(2)[1:] != "(") or char in "(;&|":
                raise Unreadable("an operator in an array")
            else:
                self._reading.evaluates |= char == "["
                self._word()
        raise Unreadable("an array without its end")

    def _redirect(self, scope: Scope) -> None:
        found = self._matched(REDIRECT)
        assert found is not None
        if self._matched(NUMBERS):
            raise Unreadable("<1-2> is a pattern in zsh")
        operator, self._at = found[0], found.end()
        scope.fresh = False
        if operator in ("<<", "<<-"):
            scope.pending.append(self._document_operator(scope.command, tabs=operator == "<<-"))
            return
        while self._peek() and self._peek() in BLANK:
            self._at += 1
        if self._peek() in ("", "#", "\n") or not (target := self._word()):
            raise Unreadable("a redirection without its target")
        if not any(word.parts or not word.bare for word in target):
            raise Unreadable("a redirection without its target")
        if operator == "<<<":
            text = target[0].literal if len(target) == 1 else None
            scope.command.documents.append(text)
        elif operator.startswith("<"):
            scope.command.documents.append(None)
        elif operator.startswith("&"):
            scope.complete = True  # what follows is an argument in bash, a command in dash

    # ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _next_word(self, scope: Scope) -> None:
        words = self._word()
        text = words[0].literal if len(words) == 1 and words[0].bare else None
        if text is not None and self._peek() in ("<", ">") and DESCRIPTOR.fullmatch(text):
            return
        if scope.complete:
            raise Unreadable("a word after &>")
        if scope.innermost in ("case", "in", "pattern"):
            self._case_word(scope, words, text)
        elif scope.fresh and text is not None and self._reserved(scope, text):
            self._reading.starts.add(words[0].start)
        else:
            scope.command.words += words
            scope.fresh = False
            if text == "do" and len(scope.command.words) == 3 and scope.command.words[0].literal in ("for", "select"):
                self._end_command(scope)

    def _case_word(self, scope: Scope, words: list[Word], text: str | None) -> None:
        if scope.innermost == "case":
            scope.nested[-1] = "in"
        elif scope.innermost == "in":
            if text != "in":
                raise Unreadable("case without in")
            scope.nested[-1] = "pattern"
        elif text == "esac":
            scope.nested.pop()
            scope.fresh = True
        else:
            scope.command.words += words

    def _reserved(self, scope: Scope, text: str) -> bool:
        """Takes a reserved word. False: it is none here."""
        if text in PASSED_OVER:
            scope.timed = text == "time"
        elif scope.timed and text in ("-p", "--"):
            pass
        elif text == "case":
            self._nest(scope, "case")
        elif text == "esac" and scope.innermost == "clause":
            scope.nested.pop()
        elif text == "[[":
            self._test()
        elif text == "function":
            self._function()
        elif text in ("coproc", "repeat", "foreach", "always", "end"):
            raise Unreadable(f"{text} begins a command that only some shells know")
        elif text == "for" and self._loop_head():
            pass
        else:
            return False
        return True

    def _loop_head(self) -> bool:
        """`for ((…))`."""
        while self._peek() and self._peek() in BLANK:
            self._at += 1
        return self._peek(2) == "((" and self._double_parentheses(forbidden="'\"\\")

    def _function(self) -> None:
        while self._peek() and self._peek() in BLANK:
            self._at += 1
        self._word()
        while self._peek() and self._peek() in BLANK:
            self._at += 1
        if self._peek() == "(":
            empty = self._matched(EMPTY_PARENTHESES)
            if empty is None:
                raise Unreadable("a parenthesis inside a command")
            self._at = empty.end()
        elif self._peek() not in ("{", "\n", "[", ""):
            raise Unreadable("a function with an unusual body")

    def _test(self) -> None:
        """`[[ … ]]`, after its opening."""
        while self._at < self._limit:
            char = self._peek()
            if char in " \t\n()&|" or (char in "<>" and self._peek(2)[1:] != "("):
                self._at += 1
            elif self._peek(2) == "\\\n":
                self._at += 2
            elif char in ";#":
                raise Unreadable("a comment or a semicolon inside [[ ]]")
            else:
                words = self._word()
                if words[0].bare and words[0].literal == "]]":
                    return
                if words[0].literal in COMPARISONS:
                    self._reading.evaluates = True
        raise Unreadable("[[ without its end")

    def _end_command(self, scope: Scope) -> None:
        command, scope.command = scope.command, Command()
        scope.fresh, scope.complete, scope.timed = True, False, False
        if scope.innermost == "pattern" or not command.words:
            return
        self._reading.commands.append(command)
        self._reading.evaluates |= _evaluates(command)
        for word in command.words:
            self._reading.starts.add(word.start)
            if not (ASSIGNMENT.match(word.head) and word.start >= 0):
                break


def _evaluates(command: Command) -> bool:
    """Sets an element of an array, or a builtin evaluates its arguments."""
    words = command.words
    if any(SUBSCRIPTED.match(word.head) for word in words):
        return True
    name, rest = words[0].literal, words[1:]
    if name in ("[", "test", "printf"):
        return any(word.literal in COMPARISONS for word in rest)
    return name == "let" or (
        name in NAMING and any(word.literal is None and not ASSIGNMENT.match(word.head) for word in rest)
    )
