"""Commands that run text as a shell does: shells, eval, trap, alias, source."""

import re
from collections.abc import Sequence

from turbo.executors.shell.examiner import Examiner, Handler, Invocation
from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.names import names
from turbo.executors.shell.words import Word

SHELLS = names("sh bash dash ash ksh ksh93 mksh zsh rbash rzsh posh yash hush lksh bosh")
FOREIGN_SHELLS = names("fish csh tcsh pwsh powershell nu elvish xonsh osh ysh oil rc es tclsh wish cmd cmd.exe")
ALIAS = re.compile(r"[^=\s]+=")


def is_file(word: Word) -> bool:
    """It names a file whose content is not seen, and no stream of this text's own: its end is literal, or all of it."""
    text = word.literal
    if text is not None:
        return bool(text) and text != "-" and not re.match(r"/+(?:dev|proc)(?:/|$)|.*/\.\.(?:/|$)", text)
    literal_end = re.search(r"[A-Za-z0-9_]$", word.tail) is not None and not re.search(
        r"(?:^|/)(?:stdin|fd/\d+|\d+)$", word.tail
    )
    return not word.splits and literal_end and not word.head.startswith("-")


def shell(examiner: Examiner, invocation: Invocation) -> None:
    """`sh -c TEXT`, `sh FILE`, `sh <<TEXT`. A file's content is not seen."""
    text_follows, at, words = False, 1, invocation.words
    while at < len(words):
        word = words[at]
        option = word.literal
        if option is None and (word.splits or not word.head or word.head[0] in "-+"):
            if text_follows or at + 1 < len(words) or not is_file(word):
                raise Unreadable("a shell with an argument that only the shell knows")
            break
        if option is None or option in ("-", "--", "") or option[0] not in "-+":
            at += option in ("-", "--")
            break
        if option.startswith("--"):
            at += _long_option(words, at)
            continue
        text_follows |= "c" in option
        if "s" in option[1:] and not text_follows:
            break
        at += 2 if re.search(r"[oOT]", option[1:]) and option[0] in "-+" else 1
    if text_follows:
        _check_dialect(invocation.name, words[at].literal if at < len(words) else None)
        _run_text(examiner, words[at] if at < len(words) else None)
    elif at < len(words) and not (words[at].literal or "x").startswith("-"):
        if not is_file(words[at]):
            raise Unreadable("a shell that reads its commands from somewhere else")
        examiner.run(words[at:], certain=False)  # a script that the shell finds by its name, as it finds a program
    else:
        standard_input(examiner, invocation)


def _long_option(words: Sequence[Word], at: int) -> int:
    """How many words it takes."""
    if not words[at].head.startswith(("--rc", "--in")):
        return 1
    if at + 1 < len(words) and not is_file(words[at + 1]):
        raise Unreadable("a shell that reads its commands from somewhere else")
    return 2


def _run_text(examiner: Examiner, word: Word | None) -> None:
    text = word.literal if word is not None else None
    if text is None:
        raise Unreadable("a shell whose text only the shell knows")
    examiner.text(text)


def _check_dialect(name: str, text: str | None) -> None:
    """What is arithmetic or a test to bash and zsh is commands to a plain shell."""
    if name not in ("bash", "zsh") and re.search(r"(?<!\$)\(\(|\[\[", text or ""):
        raise Unreadable("(( or [[ in a shell that may not know it")


def standard_input(examiner: Examiner, invocation: Invocation) -> None:
    """A shell runs what it reads there."""
    if not invocation.documents:
        invocation.doubt("a shell that reads its commands from its input")
        return
    for document in invocation.documents:
        if document is None:
            raise Unreadable("a shell that reads its commands from its input")
        _check_dialect(invocation.name, document)
        examiner.text(document)


def foreign_shell(_: Examiner, invocation: Invocation) -> None:
    if len(invocation.words) > 1 and all(
        is_file(word) and not word.head.startswith("-") for word in invocation.words[1:2]
    ):
        return
    invocation.doubt("a shell with another grammar")


def evaluate(examiner: Examiner, invocation: Invocation) -> None:
    """`eval WORDS`: joined by spaces."""
    texts = [word.literal for word in invocation.words[1:]]
    if texts[:1] == ["--"]:
        texts = texts[1:]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        raise Unreadable("eval of text that only the shell knows")
    examiner.text(" ".join(known))


def trap(examiner: Examiner, invocation: Invocation) -> None:
    """`trap TEXT SIGNALS`."""
    words = [word for word in invocation.words[1:] if word.literal not in ("--", "-p", "-l", "-P")]
    if len(words) > 1:
        _run_text(examiner, words[0])
    elif words and words[0].literal is None:
        raise Unreadable("a trap that only the shell knows")


def alias(examiner: Examiner, invocation: Invocation) -> None:
    """`alias NAME=TEXT`: the text is run with words after it."""
    for word in invocation.words[1:]:
        if word.literal is None and (word.splits or "=" in word.as_text):
            raise Unreadable("an alias that only the shell knows")
        if found := ALIAS.match(word.literal or ""):
            examiner.text((word.literal or "")[found.end() :] + " $_")


def source(_: Examiner, invocation: Invocation) -> None:
    """`. FILE`: the file's content is not seen."""
    words = invocation.words[1:]
    if words and words[0].literal == "--":
        words = words[1:]
    if words and not is_file(words[0]):
        raise Unreadable("source of text that only the shell knows")


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(SHELLS, shell),
    **dict.fromkeys(FOREIGN_SHELLS, foreign_shell),
    "eval": evaluate,
    "trap": trap,
    "alias": alias,
    "source": source,
    ".": source,
}


def passes_text(words: Sequence[Word]) -> bool:
    """The first word is a shell, and its options say that a text follows."""
    name = (words[0].literal or "").rpartition("/")[2].lower()
    return name in SHELLS and any(re.match(r"-[a-zA-Z]*c", word.head) for word in words[1:])
