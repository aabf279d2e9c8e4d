"""Variables whose text a shell or a program runs."""

import re

from turbo.executors.shell.examiner import Examiner
from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.names import names
from turbo.executors.shell.reader import ASSIGNMENT
from turbo.executors.shell.words import Word

COMMANDS = names(
    """BROWSER EDITOR FCEDIT GIT_ASKPASS GIT_EDITOR GIT_EXTERNAL_DIFF GIT_PAGER GIT_PROXY_COMMAND GIT_SEQUENCE_EDITOR
    GIT_SSH GIT_SSH_COMMAND GIT_TEMPLATE_DIR LESSCLOSE LESSOPEN MANPAGER PAGER PROMPT_COMMAND PSQL_EDITOR SHELL
    SSH_ASKPASS SUDO_ASKPASS SUDO_EDITOR SVN_SSH SYSTEMD_PAGER VISUAL CARGO_BUILD_RUSTC_WRAPPER RUSTC_WRAPPER"""
)
"""The text is a command, to which words are added."""

UNSEEN = re.compile(
    r"GIT_CONFIG_(?:COUNT|PARAMETERS|KEY_\d+|VALUE_\d+)|BASH_FUNC_.*|SHELLOPTS|BASHOPTS|IFS|BASH_ALIASES|BASH_CMDS|functions|aliases|galiases|saliases|commands|builtins|(?:GNU)?MAKEFLAGS|MFLAGS|PERL5OPT|RUBYOPT"
)
"""The text changes what other text means."""

FILES = frozenset(
    ("BASH_ENV", "ENV", "ZDOTDIR", "PYTHONSTARTUP", "GIT_CONFIG", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM")
)
PROMPTS = frozenset(("PS0", "PS1", "PS2", "PS3", "PS4", "PROMPT", "RPROMPT"))


def assigned(examiner: Examiner, word: Word) -> None:
    """`NAME=TEXT`. Raises Unreadable for a text that is run and cannot be read."""
    found = ASSIGNMENT.match(word.head)
    if found is None:
        return
    name = re.split(r"[\[+=]", found[0])[0]
    value = word.after(found.end())
    text = value.literal
    if "[" in found[0] and re.search(r"[$`]", found[0]):
        raise Unreadable("a subscript that is evaluated")
    if name == "IFS" and text is not None:
        return
    if UNSEEN.fullmatch(name):
        raise Unreadable(f"{name} changes what other text means")
    if name in COMMANDS:
        if text is None:
            raise Unreadable(f"{name} is run, and only the shell knows its text")
        if text:
            examiner.text(text + " $_")
    elif name in PROMPTS and (text is None or re.search(r"[$`\\]", text)):
        raise Unreadable(f"{name} is evaluated")
    elif name in FILES and (text is None or re.search(r"[$`]|^/(?:dev/(?!null$)|proc)", text)):
        raise Unreadable(f"{name} names what is run, and only the shell knows it")
    elif name == "NODE_OPTIONS" and (text is None or re.search(r"data:|--eval|-e\b", text)):
        raise Unreadable(f"{name} may hold a program")
