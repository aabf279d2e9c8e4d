"""What a git command runs: its subcommand behind git's own options, aliases, and the programs that it is told to start."""

import re

from turbo.executors.shell.examiner import Examiner, Handler, Invocation
from turbo.executors.shell.lexer import Unreadable
from turbo.executors.shell.names import names
from turbo.executors.shell.words import UNKNOWN, Word, literal_word

KNOWN = names(
    """add am annotate apply archive bisect blame branch bugreport bundle cat-file check-attr check-ignore
    check-mailmap check-ref-format checkout checkout-index cherry cherry-pick clean clone column commit commit-graph
    commit-tree config count-objects credential describe diagnose diff diff-files diff-index diff-tree difftool
    fast-export fast-import fetch fetch-pack filter-branch fmt-merge-msg for-each-ref for-each-repo format-patch
    fsck gc grep hash-object help hook index-pack init init-db interpret-trailers log ls-files ls-remote ls-tree
    mailinfo mailsplit maintenance merge merge-base merge-file merge-index merge-tree mergetool mktag mktree mv
    name-rev notes pack-objects pack-refs patch-id prune prune-packed pull push range-diff read-tree rebase reflog
    remote repack replace request-pull rerere reset restore rev-list rev-parse revert rm send-email send-pack
    shortlog show show-branch show-index show-ref sparse-checkout stage stash status stripspace submodule switch
    symbolic-ref tag unpack-file unpack-objects update-index update-ref var verify-commit verify-pack verify-tag
    version whatchanged worktree write-tree"""
)
"""Commands that come with every git, so no alias can have their names. Any other name may be an alias."""

VALUED = names("-C --git-dir --work-tree --namespace --super-prefix --attr-source --shallow-file")
RUNS_PROGRAMS = names(
    """archive bisect clone difftool fetch fetch-pack filter-branch for-each-repo grep hook ls-remote maintenance
    mergetool pull rebase send-email submodule"""
)
"""Subcommands with arguments that are a program or a shell's text."""

TEXT_OPTION = re.compile(r"-[xuO]|--(?:exec|extcmd|upload|open|receive)[a-z-]*=?")
SETTING = re.compile(r"[A-Za-z][A-Za-z0-9-]*\..+", re.DOTALL)
INERT = re.compile(
    r"(?:user|color|advice|init|http|url|commit|safe|gc|push|pull|fetch|branch|log|i18n|column|status|author|committer|lfs|protocol)\.|"
    r"core\.(?:quotepath|autocrlf|filemode|ignorecase|bare|abbrev|eol|safecrlf|symlinks|longpaths|hookspath|excludesfile)$|"
    r"remote\..*\.(?:url|fetch|push|pushurl)$|diff\.(?:renames|algorithm|colormoved|noprefix)$|merge\.(?:conflictstyle|ff)$|"
    r"rebase\.(?:auto[a-z]+)$|tag\.gpgsign$|credential\.(?:username|usehttppath)$",
    re.IGNORECASE,
)
"""Settings that run nothing."""


def git(examiner: Examiner, invocation: Invocation) -> None:
    at = _subcommand(examiner, invocation)
    if at is None or at >= len(invocation.words):
        return
    words = [literal_word("git"), *invocation.words[at:]]
    examiner.match_without_options(words)
    name = invocation.words[at].literal
    if name is None or name not in KNOWN:
        examiner.match([literal_word("git"), UNKNOWN])
        invocation.doubt("a git command that may be an alias")
    elif name == "config":
        _settings(examiner, invocation, at)
    elif name == "for-each-repo":
        examiner.match([literal_word("git"), *(word for word in words[2:] if not word.head.startswith("-"))])
    elif name in RUNS_PROGRAMS:
        _programs(examiner, Invocation(name, words[1:], (), invocation.certain))
    if name == "clone":
        _settings(examiner, invocation, at)


def _subcommand(examiner: Examiner, invocation: Invocation) -> int | None:
    """Where the subcommand is among the words. None: only the shell knows."""
    words, at = invocation.words, 1
    while at < len(words):
        option = words[at]
        if not option.head.startswith("-"):
            return at
        if (
            option.splits
            or option.head.startswith("--config-env")
            or (option.literal is None and "=" not in option.head)
        ):
            invocation.doubt("an option of git that only the shell knows")
            return None
        value = words[at + 1] if at + 1 < len(words) else None
        if option.literal == "-c" and value is not None:
            key, _, _ = value.head.partition("=")
            _setting(examiner, invocation, key, value.after(len(key) + 1))
        if option.literal == "-c" or option.literal in VALUED:
            if value is not None and value.splits:
                invocation.doubt("a value that may be several words")
                return None
            at += 1
        at += 1
    return at


def _settings(examiner: Examiner, invocation: Invocation, start: int) -> None:
    """`git config KEY VALUE`, `git clone -c KEY=VALUE`."""
    words = invocation.words
    for at in range(start + 1, len(words)):
        key, equals, _ = words[at].head.removeprefix("--config=").removeprefix("-c").partition("=")
        if not SETTING.fullmatch(key):
            continue
        if equals:
            _setting(
                examiner, invocation, key, words[at].after(words[at].head.index("=", words[at].head.index(key)) + 1)
            )
        elif at + 1 < len(words):
            _setting(examiner, invocation, key, words[at + 1])


def _setting(examiner: Examiner, invocation: Invocation, key: str, value: Word) -> None:
    """A setting whose value git may run."""
    if INERT.match(key):
        return
    text = value.literal
    if text is None:
        invocation.doubt("a setting of git that only the shell knows")
    elif key.lower().startswith("alias.") and not text.startswith("!"):
        examiner.text(f"git {text} $_")
    elif text:
        examiner.text(text.removeprefix("!") + " $_")


def _programs(examiner: Examiner, invocation: Invocation) -> None:
    """Options and arguments that are a program or a shell's text: `rebase --exec TEXT`, `bisect run PROGRAM`."""
    if invocation.name != "grep":
        examiner.arguments(invocation)
    words = invocation.words
    runs_all = invocation.name == "filter-branch" or any(word.literal in ("run", "foreach") for word in words[1:])
    for at, word in enumerate(words[1:], 1):
        found = TEXT_OPTION.match(word.head)
        if runs_all and word.literal is None:
            invocation.doubt("git runs a text that only the shell knows")
        if found is None:
            continue
        rest = word.after(found.end())
        text = rest if rest.as_text else next(iter(words[at + 1 : at + 2]), rest)
        if text.literal is None and invocation.name in ("rebase", "difftool", "grep"):
            raise Unreadable("git runs a text that only the shell knows")
        examiner.maybe_text(text.as_text)


HANDLERS: dict[str, Handler] = {"git": git}
