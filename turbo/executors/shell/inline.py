"""Programs in other languages: python -c, awk, sed, make, … A program text is cleared only if it can start no other program.

The content of a file that is run is not seen, whatever its language.
"""

import re
from collections.abc import Iterator, Sequence

from turbo.executors.shell.examiner import Examiner, Handler, Invocation
from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.python_text import starts_nothing
from turbo.executors.shell.shells import is_file
from turbo.executors.shell.words import Word

PYTHON = re.compile(r"(?:python|pypy|micropython|ipython)(?:[0-9.]*)(?:\.exe)?$")
LANGUAGES: dict[str, str] = {
    # name: the letters of options whose value is a program
    "perl": "eE",
    "ruby": "e",
    "node": "ep",
    "nodejs": "ep",
    "php": "rBRE",
    "lua": "e",
    "luajit": "e",
    "rscript": "e",
    "osascript": "e",
    "julia": "eE",
    "groovy": "e",
    "elixir": "e",
    "guile": "c",
    "racket": "e",
    "bun": "ep",
    "deno": "",
}
QUESTIONS = frozenset(("--version", "-v", "-V", "-VV", "--help", "-h", "-vV"))
AWK_DANGER = re.compile(r"system|@|getline|(?<!\|)\|(?!\|)")
INERT_MODULES = frozenset(("timeit", "pdb", "cprofile", "profile", "trace", "code", "runpy", "idlelib"))


def python(examiner: Examiner, invocation: Invocation) -> None:
    """`python -c TEXT`, `python <<TEXT`, `python -m MODULE`, `python FILE`."""
    words = invocation.words
    if len(words) == 2 and words[1].literal in QUESTIONS:
        return None
    at = 1
    while at < len(words):
        word = words[at]
        if word.head in ("-", "") or not word.head.startswith("-"):
            break
        option = word.head
        if option.startswith("--"):
            at += 1
            continue
        inline = re.match(r"-[bBdEhiIOPqRsSuvVxX]*?c", option)
        if inline:
            rest = word.after(inline.end())
            return _python_text(rest if rest.as_text else next(iter(words[at + 1 : at + 2]), rest))
        if module := re.match(r"-[bBdEhiIOPqRsSuvVx]*?m", option):
            name = (
                word.after(module.end()).literal or (words[at + 1].literal if at + 1 < len(words) else None) or ""
            ).lower()
            if not name or name.partition(".")[0] in INERT_MODULES:
                invocation.doubt("a module that runs what it is given")
            return examiner.arguments(Invocation(invocation.name, words[at:], (), invocation.certain))
        at += 2 if option in ("-W", "-X") else 1
    if at < len(words) and is_file(words[at]):
        return None
    if at < len(words) and words[at].literal not in ("-", "/dev/stdin"):
        return invocation.doubt("python with an argument that only the shell knows")
    for document in invocation.documents or [None]:
        _python_text(Word(()) if document is None else Word((document,)), known=document is not None)
    return None


def _python_text(word: Word, *, known: bool = True) -> None:
    if not known or word.literal is None or not starts_nothing(word.literal):
        raise Unreadable("a Python program that may start others")


def language(examiner: Examiner, invocation: Invocation) -> None:
    """perl, ruby, node and others: a program text is held, a file is not seen."""
    letters = LANGUAGES[invocation.name]
    words = invocation.words
    if len(words) == 2 and words[1].literal in QUESTIONS:
        return None
    for at, word in enumerate(words[1:], 1):
        if word.literal in ("eval", "repl", "-") and at == 1:
            break
        if not word.head.startswith("-"):
            if not is_file(word):
                break
            return examiner.arguments(invocation, at)
        if word.splits or _inline(word, letters):
            break
    invocation.doubt("a program text in another language")
    return None


def _inline(word: Word, letters: str) -> bool:
    option = word.head
    if option.startswith("--"):
        return re.match(r"--(?:e|p|r=|import|loader|require=data)", option) is not None and option not in (
            "--experimental-strip-types",
        )
    return any(letter in option[1:] for letter in letters) and not re.match(r"-[MmIl]", option)


def awk(_: Examiner, invocation: Invocation) -> None:
    """A program that pipes, calls system or reads from a program is held."""
    words, at, programs = invocation.words, 1, []
    while at < len(words) and words[at].head.startswith("-") and words[at].head != "--":
        option = words[at].head
        if words[at].splits or option.startswith("--") or option[1:2] in ("e", "i", "l", "E", "D", "L"):
            return invocation.doubt("an option of awk that is not read")
        if option[1:2] == "f":
            file = words[at].after(2) if words[at].after(2).as_text else next(iter(words[at + 1 : at + 2]), words[at])
            if not is_file(file):
                return invocation.doubt("an awk program from somewhere else")
            programs.append(file)
        at += 2 if words[at].as_text in ("-F", "-v", "-f") else 1
    if programs:
        return None
    at += at < len(words) and words[at].head == "--"
    if at < len(words) and (words[at].literal is None or AWK_DANGER.search(words[at].literal or "")):
        return invocation.doubt("an awk program that may start others")
    return None


def sed(_: Examiner, invocation: Invocation) -> None:
    """A script with `e` in the place of a command or a flag is held."""
    if any(word.literal == "--sandbox" for word in invocation.words):
        return
    for script in _sed_scripts(invocation.words):
        if script.literal is None or not _is_plain_sed(script.literal):
            invocation.doubt("a sed script that may start programs")


def _sed_scripts(words: Sequence[Word]) -> Iterator[Word]:
    at, given = 1, False
    operands = []
    while at < len(words):
        word = words[at]
        if found := re.match(r"-[nErsuzlb]*?([ef])|--(?:expression|file)=?", word.head):
            rest = word.after(found.end())
            value = rest if rest.as_text else next(iter(words[at + 1 : at + 2]), rest)
            at += 0 if rest.as_text else 1
            given = True
            if not (found[1] == "f" or word.head.startswith("--file")) or not is_file(value):
                yield value
        elif not word.head.startswith("-"):
            operands.append(word)
        elif word.splits:
            yield word
        at += 1
    if not given and operands:
        yield operands[0]


SED_ADDRESS = re.compile(r"[\s;{}0-9,$~+!]+|/(?:[^/\\\n]|\\.)*/[IM]*", re.DOTALL)
SED_COMMAND = re.compile(
    r"[pPdDgGhHnNxqQlzF=]\s*(?=[;}\n#0-9]|$)|#[^\n]*|[aicrwRW](?:[^\n\\]|\\[^\n])*(?=\n|$)|[bBtT:][^;\n}]*|"
    r"[sy]([^\w\s\\])(?:(?!\1)[^\\\n]|\\.)*\1(?:(?!\1)[^\\\n]|\\.)*\1[gpiIm0-9]*\s*(?=[;}\n#]|$)",
    re.DOTALL,
)


def _is_plain_sed(script: str) -> bool:
    at = 0
    while at < len(script):
        found = SED_ADDRESS.match(script, at) or SED_COMMAND.match(script, at)
        if found is None:
            return False
        at = found.end()
    return True


def make(examiner: Examiner, invocation: Invocation) -> None:
    """Targets and plain variables are fine. A makefile's content is not seen."""
    words = invocation.words
    for at, word in enumerate(words[1:], 1):
        text = word.literal
        if text is None:
            if word.splits or not word.head or word.head.startswith("-"):
                return invocation.doubt("make with an argument that only the shell knows")
            text = word.as_text
        if re.match(r"--ev|-\w*E", text) or re.match(r"(?:SHELL|\.SHELLFLAGS|MAKEFLAGS|MAKE)\s*[:+?]*=", text):
            return invocation.doubt("make with rules in its arguments")
        if found := re.match(r"-[a-zA-Z]*f(.*)$|--(?:file|makefile)=?(.*)$", text):
            file = found[1] or found[2] or (words[at + 1].as_text if at + 1 < len(words) else "")
            if not is_file(Word((file,))):
                return invocation.doubt("make with rules from somewhere else")
        if ("=" in text and re.search(r"\$[({]|`|!=", text.partition("=")[2])) or "!=" in text:
            return invocation.doubt("make with a variable that runs a program")
    return examiner.arguments(invocation)


HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(LANGUAGES, language),
    **dict.fromkeys(("awk", "gawk", "mawk", "nawk"), awk),
    **dict.fromkeys(("sed", "gsed"), sed),
    **dict.fromkeys(("make", "gmake"), make),
}
