"""Takes secrets out of what is stored of a run: values that are known, tokens whose shape is known, and an operator's patterns.

    a row of JSON ──every string, decoded──▶ known values, in every form ──▶ token shapes ──▶ patterns ──▶ the row again
                                                └── a signed block of thinking would change: it is left out whole

Works on decoded strings, so no escape hides a value; and it stays JSON, so an agent can still go on from it. A known value is found
in its usual encodings too (JSON within JSON, base64, percent signs, hexadecimal), and where consecutive pieces of a conversation
hold a part of it each. It cannot find what nobody has told it: a password in a file, or one that the agent spells backwards.
"""

import base64
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

SHORTEST = 8
"""Characters. A shorter value is left alone: it would take ordinary words out of a text."""

MARK = "[redacted]"
LEFT_OUT = "[left out: it held a secret]"
LONGEST_PIECE = 8192
"""Characters that a pattern is given at once: the interpreter does nothing else while it looks."""

_STRUCTURE = frozenset(
    [
        "assistant",
        "user",
        "system",
        "text",
        "thinking",
        "redacted_thinking",
        "tool_use",
        "tool_result",
        "message",
        "attachment",
        "result",
        "image",
        "document",
        "base64",
        "external",
        "ephemeral",
        "standard",
        "enqueue",
        "dequeue",
        "external_user",
        "progress",
    ]
)
"""Words of the session file itself, as values. A secret that is one of them is none."""

Shape = tuple[tuple[str, ...], re.Pattern[str], str]
"""A text that holds a token holds one of these fixed texts; the pattern of the token; what takes its place."""


SHAPES: tuple[Shape, ...] = (
    (("sk-ant-",), re.compile(r"sk-ant-[A-Za-z0-9_-]{8,}"), MARK),
    (
        ("sk-",),
        re.compile(r"(?<![A-Za-z0-9])sk-(?:(?:proj|svcacct|admin|or)-[A-Za-z0-9_-]{16,}|[A-Za-z0-9]{32,})"),
        MARK,
    ),
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), re.compile(r"gh[pousr]_[A-Za-z0-9]{20,}"), MARK),
    (("github_pat_",), re.compile(r"github_pat_[A-Za-z0-9_]{20,}"), MARK),
    (("glpat-",), re.compile(r"glpat-[A-Za-z0-9_-]{16,}"), MARK),
    (("AKIA", "ASIA"), re.compile(r"(?<![A-Z0-9])(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])"), MARK),
    (("xox",), re.compile(r"xox[abeoprs]-[A-Za-z0-9-]{10,}"), MARK),
    (("xapp-",), re.compile(r"xapp-[A-Za-z0-9-]{10,}"), MARK),
    (("AIza",), re.compile(r"AIza[A-Za-z0-9_-]{35}"), MARK),
    (("npm_",), re.compile(r"npm_[A-Za-z0-9]{36}"), MARK),
    (("pypi-",), re.compile(r"pypi-[A-Za-z0-9_-]{50,}"), MARK),
    (("k_live_", "k_test_"), re.compile(r"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"), MARK),
    (
        (".eyJ",),  # looked for once in each run of such characters, however often it has eyJ
        re.compile(
            r"(?<![A-Za-z0-9_-])((?>[A-Za-z0-9_-]*?(?=eyJ)))eyJ[A-Za-z0-9_-]{8,}+\.eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]*"
        ),
        rf"\1{MARK}",
    ),
    (
        ("PRIVATE",),
        re.compile(
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)"
        ),
        MARK,
    ),
    (("earer ",), re.compile(r"([Bb]earer )[A-Za-z0-9._~+/=-]{16,}"), rf"\1{MARK}"),
    (
        ("://",),
        re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s:/@\"']{0,100}:)[^\s/@\"']{1,200}@"),
        rf"\1{MARK}@",
    ),
)

_PEM_BEGINS = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_ENDS = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")


@dataclass(frozen=True, slots=True)
class BoundedPattern:
    """A pattern of an operator's (turbo.domain.redact_patterns), and the most characters that it takes."""

    pattern: re.Pattern[str]
    width: int


def forms_of(secret: str) -> Iterable[str]:
    """How a text may hold a secret."""
    for value in {secret, secret.strip()}:
        yield value
        for ascii_only in (False, True):
            once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
            yield once
            yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]
        yield once.replace("/", "\\/")
        data = value.encode("utf-8", "surrogatepass")
        yield data.hex()
        yield data.hex().upper()
        for safe in ("", "/"):
            yield urllib.parse.quote(data, safe=safe)
            yield urllib.parse.quote_plus(data, safe=safe)
        for before in range(3):  # the same bytes look another way after one or two others
            skip, bits = (before * 8 + 5) // 6, (before + len(data)) * 8
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                yield encode(b"\0" * before + data).decode()[skip : bits // 6]
    yield from (line for line in secret.splitlines() if line != secret)


@dataclass(slots=True)
class Said:
    """The end of what a conversation has said so far: a secret may go on in its next row."""

    end: str = ""
    pem: bool = False  # of plain lines: within a private key


@dataclass(frozen=True, slots=True)
class Redactor:
    """For one run. `secrets`: texts of SHORTEST characters and more, others are ignored."""

    secrets: frozenset[str]
    patterns: tuple[BoundedPattern, ...] = ()
    _forms: tuple[str, ...] = field(init=False)
    _values: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        known = {secret for secret in self.secrets if len(secret.strip()) >= SHORTEST}
        forms = {form for secret in known for form in forms_of(secret) if len(form) >= SHORTEST}
        object.__setattr__(self, "_forms", tuple(sorted(forms, key=lambda form: (-len(form), form))))
        object.__setattr__(self, "_values", tuple(sorted(known | {s.strip() for s in known})))

    def text(self, text: str) -> str:
        """A text without its secrets. Takes time in proportion to its length."""
        if len(text) < SHORTEST:
            return text
        for form in self._forms:
            if form in text:
                text = text.replace(form, MARK)
        for guards, pattern, mark in SHAPES:
            if any(guard in text for guard in guards):
                text = pattern.sub(mark, text)
        for bounded in self.patterns:
            text = _without(bounded, text)
        return text

    def event(self, line: bytes, said: Said) -> str:
        """One line of output, without its newline: an object of JSON, or text."""
        text = line.decode("utf-8", "replace").replace("\0", "\\x00")
        if text.startswith("{"):
            try:
                return dumped(self.row(json.loads(text), said))
            except (ValueError, RecursionError):
                pass
        return self.plain(text, said)

    def plain(self, line: str, said: Said) -> str:
        """One line of text, without its newline. `said` is what came before it, and is brought up to date."""
        if said.pem:
            said.pem = _PEM_ENDS.search(line) is None
            return MARK
        cleaned = self.text(line)
        if cleaned != line and (begun := _PEM_BEGINS.search(line)) is not None:
            said.pem = _PEM_ENDS.search(line, begun.end()) is None
        return self._pieces([cleaned], said)[0]

    def row(self, row: object, said: Said) -> object:
        """A parsed row of JSON. The same object where nothing is secret. Raises RecursionError for one nested too deep."""
        cleaned = self._value(row)
        places = list(_pieces_of(cleaned))
        if places:
            pieces = [str(holder[key]) for holder, key in places]  # type: ignore[index]
            changed = self._pieces(pieces, said)
            if changed != pieces:
                if cleaned is row:
                    cleaned = json.loads(json.dumps(row))
                    places = list(_pieces_of(cleaned))
                for (holder, key), text in zip(places, changed, strict=True):
                    holder[key] = text  # type: ignore[index]
                cleaned = _without_signed(cleaned, row)
        return cleaned

    def value(self, value: object) -> object:
        """Any value of JSON, without its secrets. One that is nested too deep is left out."""
        try:
            return self._value(value)
        except RecursionError:
            return MARK

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return value if value in _STRUCTURE else self.text(value)
        if isinstance(value, list):
            items = [self._value(item) for item in value]
            if all(new is old for new, old in zip(items, value, strict=True)):
                return value
            return _kept(items, value)
        if isinstance(value, dict):
            found = {self._key(key): self._value(item) for key, item in value.items()}
            if all(found.get(key) is item for key, item in value.items()):
                return value
            return found
        return value

    def _key(self, key: str) -> str:
        return self.text(key) if len(key) >= SHORTEST else key

    def _pieces(self, pieces: Sequence[str], said: Said) -> list[str]:
        """Consecutive texts of a conversation, without known values that lie across them. Of one that began in an earlier row, the
        rest is taken out."""
        if not self._values:
            return list(pieces)
        longest = max(len(value) for value in self._values)
        joined = said.end + "".join(pieces)
        cut: list[tuple[int, int]] = []
        for value in self._values:
            start = joined.find(value)
            while start >= 0:
                cut.append((start, start + len(value)))
                start = joined.find(value, start + len(value))
        result = list(pieces)
        if cut:
            cut, at, first = _merged(cut), len(said.end), 0
            for number, piece in enumerate(pieces):
                end = at + len(piece)
                while first < len(cut) and cut[first][1] <= at:
                    first += 1
                last = first
                while last < len(cut) and cut[last][0] < end:
                    last += 1
                result[number] = _cut_out(piece, [(a - at, b - at) for a, b in cut[first:last]])
                at, first = end, max(first, last - 1)
            joined = said.end + "".join(result)
        said.end = joined[-(longest - 1) :]
        return result


def dumped(row: object) -> str:
    """A row as one line of JSON, as an agent writes it, without its newline."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(row, separators=(",", ":"))
    return text


def ascii_json(lines: str) -> str:
    """Lines of JSON without characters that a database's encoding may not have; of other lines, their escapes."""
    return "".join(char if char.isascii() else json.dumps(char)[1:-1] for char in lines)


def _without(bounded: BoundedPattern, text: str) -> str:
    found: list[tuple[int, int]] = []
    for start in range(0, len(text), LONGEST_PIECE):
        end = start + LONGEST_PIECE
        begin = max(start, found[-1][1]) if found else start
        for match in bounded.pattern.finditer(text, begin, min(len(text), end + bounded.width + 1)):
            if match.start() >= end:
                break
            if match.end() > match.start():
                found.append(match.span())
    return _cut_out(text, found)


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """In their order, and none within another: those that overlap are one."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _cut_out(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """`text` with MARK in place of each span, as far as it lies in it."""
    kept: list[str] = []
    at = 0
    for begin, end in sorted(spans):
        begin, end = max(begin, at), min(end, len(text))
        if begin < end:
            kept += [text[at:begin], MARK]
            at = end
    return "".join([*kept, text[at:]]) if kept else text


def _is_signed(value: object) -> bool:
    return isinstance(value, dict) and value.get("type") in ("thinking", "redacted_thinking")


def _kept(items: Sequence[object], before: Sequence[object]) -> list[object]:
    """A list whose items were cleaned, without the signed blocks that changed: another text under the signature would be refused."""
    kept = [new for new, old in zip(items, before, strict=True) if new is old or not _is_signed(old)]
    if not kept and any(_is_signed(old) for old in before):
        return [{"type": "text", "text": LEFT_OUT}]  # a message must not be empty
    return kept


def _without_signed(cleaned: object, row: object) -> object:
    """Signed blocks in which a part of a secret was found."""
    if isinstance(cleaned, dict) and isinstance(row, dict):
        message, before = cleaned.get("message"), row.get("message")
        if isinstance(message, dict) and isinstance(before, dict) and isinstance(message.get("content"), list):
            old = {json.dumps(block, sort_keys=True) for block in before["content"] if _is_signed(block)}
            kept = [
                block
                for block in message["content"]
                if not _is_signed(block) or json.dumps(block, sort_keys=True) in old
            ]
            message["content"] = kept or [{"type": "text", "text": LEFT_OUT}]
    return cleaned


def _pieces_of(row: object) -> Iterable[tuple[dict[str, object] | list[object], str | int]]:
    """Where a row has the texts of its message, in order: text, thinking, and results of tools."""
    message = row.get("message") if isinstance(row, dict) else None
    if not isinstance(message, dict):
        return
    content = message.get("content")
    if isinstance(content, str):
        yield message, "content"
    elif isinstance(content, list):
        yield from _blocks(content)


def _blocks(content: list[object]) -> Iterable[tuple[dict[str, object] | list[object], str | int]]:
    for block in content:
        if not isinstance(block, dict):
            continue
        for key in ("text", "thinking", "content"):
            if isinstance(block.get(key), str):
                yield block, key
            elif key == "content" and isinstance(block.get(key), list):
                yield from _blocks(block[key])


SecretsOf = Callable[[], Iterable[str]]
"""The worker's own secrets, as they are now."""

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY|CREDENTIAL|DSN", re.IGNORECASE)


def secrets_in(environment: Mapping[str, str]) -> Iterable[str]:
    """The values of variables whose names say that they are secret."""
    return (value for name, value in environment.items() if _SECRET_NAME.search(name))
