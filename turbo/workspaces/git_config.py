"""What turbo's own git takes from a person's git configuration: settings that are data, never a program.

    ~/.gitconfig ──────┐
    <repo>/.git/config ┴─▶ allow-list ──▶ the settings of turbo's git        (turbo.workspaces.isolation)

An agent may write to both files. A filter, a hook, a credential helper, an ssh command or an `uploadpack` in them would
be run by the worker's next git. So a setting counts only if it is on the list below. Some programs are as harmless as
data, because their name and arguments are fixed: git-lfs, and the credential helpers that come with git.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from turbo.host.regular_file import read_regular

CONFIG_BYTES = 1024 * 1024
"""Of one configuration file. A person's has a few KB."""

Entry = tuple[str, str, str, str | None]
"""Section and key in lower case, with the subsection between them (`remote`, `origin`, `url`), and the value. None: the key
alone, which means true."""

_DATA = {
    "core": {
        "repositoryformatversion", "bare", "filemode", "ignorecase", "precomposeunicode", "symlinks", "autocrlf", "eol",
        "logallrefupdates", "protecthfs", "protectntfs", "bigfilethreshold", "compression", "loosecompression",
        "sharedrepository", "excludesfile",
    },
    "extensions": {"objectformat", "partialclone", "refstorage"},
    "remote": {"url", "pushurl", "fetch", "promisor", "partialclonefilter", "lfsurl"},
    "url": {"insteadof", "pushinsteadof"},
    "safe": {"directory"},
    "user": {"name", "email"},
    "filter": {"required"},
    "lfs": {"url", "fetchinclude", "fetchexclude"},
    "credential": {"username", "usehttppath"},
}  # fmt: skip

_FIXED = {
    ("filter", "lfs", "clean"): {"git-lfs clean -- %f"},
    ("filter", "lfs", "smudge"): {"git-lfs smudge -- %f", "git-lfs smudge --skip -- %f"},
    ("filter", "lfs", "process"): {"git-lfs filter-process", "git-lfs filter-process --skip"},
}
_HELPERS = {"", "store", "cache", "osxkeychain", "manager", "manager-core", "libsecret"}

_FOR_REMOTES = {"credential", "http", "https", "include", "includeif"}
"""Sections without which a remote may be out of reach."""

_SECTION = re.compile(r'\[\s*([A-Za-z0-9.-]+)\s*(?:"((?:[^"\\\n]|\\.)*)"\s*)?\]')
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9-]*)[ \t]*")


@dataclass(frozen=True, slots=True)
class Settings:
    """`entries` are data. `left_out`: the names of the other settings, without their values."""

    entries: tuple[Entry, ...] = ()
    left_out: tuple[str, ...] = ()

    def written(self) -> str:
        """As a configuration file."""
        return "".join(_lines(self.entries))

    def unread_for(self, section: str) -> str:
        """What to add to an error that a setting which is left out may have caused: of `remote`, or of `filter`. Or ""."""
        wanted = {section} | (_FOR_REMOTES if section == "remote" else set())
        names = [name for name in self.left_out if name.partition(".")[0] in wanted or name == "core.sshcommand"]
        if not names:
            return ""
        return f" (turbo's git does not use {', '.join(names[:5])} of git's configuration: see workspace.git_config)"


def data_of(*files: Path) -> Settings:
    """What may be used of these files; a later one overrides. A file that is missing or unreadable has no settings."""
    entries, left_out = [], []
    for file in files:
        try:
            text = read_regular(file, CONFIG_BYTES).decode("utf-8", "surrogateescape")
        except OSError:
            continue
        for entry in parse(text):
            if _is_data(entry):
                entries.append(entry)
            else:
                left_out.append(_name(entry))
    return Settings(tuple(entries), tuple(dict.fromkeys(left_out)))


def filters_of(config: Path | None) -> set[str]:
    """The filters for which an operator's own file has commands."""
    if config is None:
        return set()
    try:
        text = read_regular(config, CONFIG_BYTES).decode("utf-8", "surrogateescape")
    except OSError:
        return set()
    return {subsection for section, subsection, _, _ in parse(text) if section == "filter"}


def missing_filters(entries: Iterable[Entry], defined: set[str]) -> list[Entry]:
    """Commands that fail, for each filter that is required and has none: git would pass the content on as it is."""
    filters = [entry for entry in entries if entry[0] == "filter"]
    known = {subsection for _, subsection, key, _ in filters if key != "required"} | defined
    required = {name: value for _, name, key, value in filters if key == "required"}
    return [
        ("filter", name, key, "false")
        for name, value in required.items()
        if name not in known and (value is None or value.lower() in ("true", "yes", "on", "1"))
        for key in ("smudge", "clean")
    ]


def _is_data(entry: Entry) -> bool:
    section, subsection, key, value = entry
    if "\0" in subsection or "\n" in subsection or "\0" in (value or ""):
        return False
    if key in _DATA.get(section, ()):
        return True
    if (section, key) == ("credential", "helper"):
        return value in _HELPERS
    return value in _FIXED.get((section, subsection, key), ())


def _name(entry: Entry) -> str:
    section, subsection, key, _ = entry
    name = ".".join(part for part in (section, subsection if section != "http" else "", key) if part)
    return re.sub(r"[^ -~]|[\s,]", "?", name)[:80]


def _lines(entries: Iterable[Entry]) -> Iterator[str]:
    for section, subsection, key, value in entries:
        quoted = subsection.replace("\\", "\\\\").replace('"', '\\"')
        yield f'[{section} "{quoted}"]\n' if subsection else f"[{section}]\n"
        if value is None:
            yield f"\t{key}\n"
        else:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
            yield f'\t{key} = "{escaped}"\n'


def parse(text: str) -> list[Entry]:
    """The settings of a configuration file (git-config(1), Syntax), up to the first error. Includes are not followed."""
    entries: list[Entry] = []
    section = subsection = ""
    at, text = 0, text.removeprefix("\ufeff").replace("\r\n", "\n")
    while at < len(text):
        if text[at].isspace():
            at += 1
        elif text[at] in "#;":
            at = _end_of_line(text, at)
        elif text[at] == "[":
            if (found := _SECTION.match(text, at)) is None:
                break
            section, dot, older = found[1].lower().partition(".")
            subsection = re.sub(r"\\(.)", r"\1", found[2]) if found[2] is not None else older if dot else ""
            at = found.end()
        else:
            if (found := _KEY.match(text, at)) is None or not section:
                break
            at = found.end()
            value: str | None = None
            if text[at : at + 1] == "=":
                value, at = _value(text, at + 1)
            elif text[at : at + 1] not in ("", "\n", "#", ";"):
                break
            entries.append((section, subsection, found[1].lower(), value))
    return entries


def _end_of_line(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _value(text: str, at: int) -> tuple[str, int]:
    """The value that begins at `at`, and where it ends."""
    value: list[str] = []
    kept = 0  # without the unquoted space at its end
    quoted = False
    while at < len(text) and (text[at] != "\n"):
        character = text[at]
        if character == "\\":
            escaped = text[at + 1 : at + 2]
            at += 2
            if escaped == "\n":
                continue
            value.append({"n": "\n", "t": "\t", "b": "\b"}.get(escaped, escaped))
            kept = len(value)
            continue
        at += 1
        if character == '"':
            quoted = not quoted
            kept = len(value)
        elif not quoted and character in "#;":
            at = _end_of_line(text, at)
        elif quoted or not character.isspace():
            value.append(character)
            kept = len(value)
        elif value:
            value.append(character)
    return "".join(value[:kept]), at
