"""Programs that take their arguments for data, and start no program by them."""

import re

from turbo.executors.shell.examiner import Invocation
from turbo.executors.shell.names import names

DATA = names(
    """[ [[ : base64 basename break cal cat cd chgrp chmod chown cksum clear cmp column comm continue cp curl cut date
    declare df diff dirname dirs du echo enable exit export expand expr factor false file fmt fold for free getconf
    getopts grep egrep fgrep zgrep groups gunzip gzip hash hd head hexdump hostname iconv id in jobs join jq kill
    let link ln local logname ls lsof md5sum mkdir mkfifo mktemp mv nl nproc od paste pgrep pidof popd pr printenv
    printf ps pushd pwd read readarray mapfile readonly readlink realpath return rev rg rm rmdir select seq set
    sha1sum sha256sum sha512sum shasum shift shopt shuf sleep sort stat strings stty sum sync tac tail tee test
    touch tput tr tree true truncate tsort tty type typeset umask unalias uname unexpand uniq unlink unset uptime
    uuidgen wait wc wget whereis which who whoami xxd yes zcat gh ruff mypy pytest"""
)
"""`gh`, `pytest` and the like are here for their free texts: titles, expressions."""

EVALUATING = names(
    "[ [[ declare export getopts let local mapfile printf read readarray readonly test typeset unset wait"
)
"""Builtins that set variables, or evaluate subscripts in their arguments."""

OPTIONS: dict[str, re.Pattern[str]] = {
    "hash": re.compile(r"-\w*p"),
    "enable": re.compile(r"-\w*f"),
    "mapfile": re.compile(r"-\w*C"),
    "readarray": re.compile(r"-\w*C"),
    "rg": re.compile(r"--pre(?:=|$)|--hostname-bin"),
    "sort": re.compile(r"--comp"),
    "curl": re.compile(r"-\w*K|--config"),
    "gh": re.compile(r"alias$|extension$"),
    "set": re.compile(r"-\w*k"),
    "shopt": re.compile(r"extdebug|expand_aliases"),
    "declare": re.compile(r"-\w*[nif]"),
    "typeset": re.compile(r"-\w*[nif]"),
    "local": re.compile(r"-\w*[ni]"),
}
"""Options of these programs that run something, or change how text is read."""


def data_option(invocation: Invocation) -> bool:
    """One of them is among the arguments."""
    if invocation.name == "hash" and any("=" in word.head for word in invocation.words[1:]):  # zsh: hash NAME=PROGRAM
        return True
    danger = OPTIONS.get(invocation.name)
    return danger is not None and any(danger.match(word.head) for word in invocation.words[1:])
