"""A YAML configuration file: read, expanded and checked. One error lists every problem with its file, line and key.

    file ──YAML──▶ tree ──${VAR}──▶ tree ──pydantic──▶ a frozen Document

The caller's model decides what kind of file it is (worker.yaml, fleet.yaml). Variables expand after the YAML is parsed, so a
value cannot become structure: `${VAR}`, `${VAR:-default}`; `$$` is a dollar, a lone `$` is text. Unknown keys are errors,
with a suggestion; so are duplicate keys.
"""

import difflib
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from psycopg import ProgrammingError, conninfo
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from turbo.domain.finding import Finding, fail

VARIABLE = re.compile(r"\$\$|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:[^}$]|\$(?!\{))*+))?\}")

Tree = dict[str, Any]


class ConfigError(Exception):
    """The configuration cannot be used. The message names file, key path, what was found and what is allowed."""


def in_file(error: ConfigError, path: Path) -> ConfigError:
    """An error that was found after the file was read, with its name in each line."""
    return ConfigError("\n".join(f"{path}: {line}" for line in str(error).splitlines()))


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # a kind of int in Python
        raise ValueError(f"must be a number, not {str(value).lower()}")
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Real = Annotated[float, BeforeValidator(_no_bool)]
"""Numbers of a file: true is not 1, and a Real is finite. Each field has two bounds; a test sees to it."""


LONGEST_SECONDS = 1_000_000_000
"""31 years: in effect for ever, and still a length of time that the database and the operating system can add to now."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=False, allow_inf_nan=False)


class Document(Section):
    """A whole file."""

    @classmethod
    def other_kind(cls, keys: Collection[str], path: Path) -> str | None:
        """What the file with these sections is, if it is not one of this kind."""
        del keys, path
        return None

    def problems(self) -> list[Finding]:
        """Findings about several keys together; `subject` is the key path."""
        return []


D = TypeVar("D", bound=Document)

FILE_BYTES = 1024 * 1024
MOST_VALUES = 20_000
"""Of one file, aliases resolved."""

DEEPEST = 50
LONGEST_DIGITS = 300
"""Digits of one number: more than a float can have before its point."""


def load(
    path: Path,
    model: type[D],
    overrides: Mapping[str, Any] | None = None,
    written: Callable[[Tree], Iterable[Finding]] | None = None,
    expanded: Callable[[Tree], Iterable[Finding]] | None = None,
) -> D:
    """Read and check a file. `overrides` maps key paths ("worker.slots") to values of the command line.

    `written` checks the file as written, `expanded` checks it after its variables are expanded. Values that these two report
    are secrets, and no message shows them. Raises ConfigError: one message, one line per problem.
    """
    tree, lines, empty = _read(path, model)
    if (kind := model.other_kind(tree.keys(), path)) is not None:
        raise ConfigError(f"{path}: {kind}")
    errors: list[Finding] = list(written(tree)) if written else []
    errors += [finding for where in empty if (finding := _nothing(model, where)) is not None]
    unset: list[Finding] = []
    tree = _expand(tree, "", unset)
    errors += [problem for problem in (expanded(tree) if expanded else ()) if problem not in errors]
    secret = [error.subject for error in errors]
    errors += [finding for finding in unset if not any(_within(finding.subject, hidden) for hidden in secret)]
    for key, value in (overrides or {}).items():
        section, _, name = key.partition(".")
        target = tree.setdefault(section, {})
        if isinstance(target, dict):
            target[name] = value
    document = None
    try:
        document = model.model_validate(tree)
        findings = document.problems()
    except ValidationError as error:
        findings = [_explain(model, e) for e in error.errors()]
    errors += [finding for finding in findings if not any(_within(finding.subject, hidden) for hidden in secret)]
    if errors or document is None:
        raise ConfigError(
            "\n".join(f"{path}{_line(lines, e.subject)}: {e.subject or '(top level)'}: {e.what}" for e in errors)
        )
    return document


def _within(where: str, other: str) -> bool:
    """Whether one of two key paths contains the other. The empty one contains all."""
    return not (where and other) or f"{where}.".startswith(f"{other}.") or f"{other}.".startswith(f"{where}.")


def read(path: Path, model: type[Document]) -> tuple[Tree, dict[str, int]]:
    """The tree as it is written, and the line of every key. Raises ConfigError."""
    return _read(path, model)[:2]


def _read(path: Path, model: type[Document]) -> tuple[Tree, dict[str, int], list[str]]:
    """`read`, and the keys that nothing follows."""
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(FILE_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text") from None
    if len(content) > FILE_BYTES:
        raise ConfigError(f"{path}: is longer than {FILE_BYTES} bytes, the most that a configuration may have")
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[str, int] = {}
        empty: list[str] = []
        if node is not None:
            _measure(node, path)
            _walk(node, "", lines, empty, path)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path}{where}: is not YAML: {_unquoted(getattr(error, 'problem', None) or error)}"
        ) from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:  # a date that is none, nesting without end
        raise ConfigError(f"{path}: cannot be read as YAML: {_unquoted(error)[:200]}") from None
    if not isinstance(tree, dict):
        kind = "empty" if tree is None else f"a {type(tree).__name__}"
        raise ConfigError(f"{path}: is {kind}; expected the sections {', '.join(model.model_fields)}")
    return tree, lines, empty


_QUOTED = re.compile(r"(['\"])(?![<\\]).{2,}\1", re.DOTALL)


def _unquoted(problem: object) -> str:
    """A parser's problem without the text of the file: an unquoted password may look like an alias or a tag. Single characters,
    and what the parser calls its tokens, stay."""
    return _QUOTED.sub("'…'", str(problem))


def near(name: str, known: Iterable[object]) -> str:
    """The end of a message about an unknown name: the likely one, or all known ones."""
    names = [str(k) for k in known]
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""


def expand(text: str, environment: Mapping[str, str]) -> str:
    """One value of a file with its variables replaced; one that is not set becomes empty."""

    def replacement(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match["name"]) or match["default"] or ""

    return VARIABLE.sub(replacement, text)


_SECRET_KEYWORDS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""Of libpq 18; an older one does not know the last three, and refuses them."""


def home(path: str | None) -> str | None:
    """A path with `~/` expanded, kept a string until it is used."""
    return None if path is None else os.path.expanduser(path)  # noqa: PTH111


def has_password(dsn: str) -> bool:
    """Whether a connection string, as written, holds a password or another secret."""
    try:
        written = conninfo.conninfo_to_dict(VARIABLE.sub("", dsn))
        return any(written.get(keyword) for keyword in _SECRET_KEYWORDS)
    except ProgrammingError:
        return False


def _measure(root: yaml.Node, path: Path) -> None:
    """Raises ConfigError for what no configuration needs: aliases that multiply or contain themselves, deep nesting, a
    number without end."""
    level, depth, values = [root], 0, 0
    while level:
        values += len(level)
        depth += 1
        if values > MOST_VALUES or depth > DEEPEST:
            what = f"too many values (more than {MOST_VALUES})" if values > MOST_VALUES else "nested too deep"
            raise ConfigError(f"{path}:{level[0].start_mark.line + 1}: {what}, or an alias that contains itself")
        below: list[yaml.Node] = []
        for node in level:
            if isinstance(node, yaml.MappingNode):
                for key, value in node.value:
                    if not isinstance(key, yaml.ScalarNode):
                        raise ConfigError(f"{path}:{key.start_mark.line + 1}: a key must be text")
                    below.append(value)
            elif isinstance(node, yaml.SequenceNode):
                below += node.value
            elif node.tag in _NUMBERS and len(node.value) > LONGEST_DIGITS:
                raise ConfigError(
                    f"{path}:{node.start_mark.line + 1}: a number of {len(node.value)} digits; "
                    f"at most {LONGEST_DIGITS}, or put it in quotes if it is text"
                )
            if len(below) > MOST_VALUES:
                break
        level = below


_NULL = "tag:yaml.org,2002:null"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def _walk(node: yaml.Node, at: str, lines: dict[str, int], empty: list[str], path: Path) -> None:
    """Record the line of every key, and the keys that nothing follows. Raises ConfigError for a duplicate key."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            where = f"{at}.{key.value}" if at else str(key.value)
            line = key.start_mark.line + 1
            if key.value in seen:
                raise ConfigError(f"{path}:{line}: {where}: appears twice; keep one")
            seen.add(key.value)
            lines[where] = line
            if isinstance(value, yaml.ScalarNode) and value.tag == _NULL and not value.value:
                empty.append(where)
            _walk(value, where, lines, empty, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            where = f"{at}.{i}"
            lines[where] = value.start_mark.line + 1
            _walk(value, where, lines, empty, path)


def _line(lines: Mapping[str, int], where: str) -> str:
    while where:
        if where in lines:
            return f":{lines[where]}"
        where = where.rpartition(".")[0]
    return ""


def _expand(value: Any, at: str, errors: list[Finding]) -> Any:
    if isinstance(value, dict):
        return {k: _expand(v, f"{at}.{k}" if at else str(k), errors) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, f"{at}.{i}", errors) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        value = os.environ.get(match["name"]) or match["default"]
        if value is None:
            name = match["name"]
            errors.append(fail(f"the variable {name} is not set; set it, or write ${{{name}:-default}}", subject=at))
            return ""
        return value

    return VARIABLE.sub(replacement, value)


def _nothing(model: type[Document], where: str) -> Finding | None:
    """For a key of the model that nothing follows: YAML takes that for null, which may switch off what the key asks for."""
    *above, name = where.split(".")
    _, owners = _follow(model, above)
    fields = [owner.model_fields[name] for owner in owners if name in owner.model_fields]
    if not fields:
        return None
    if any(_models([field.annotation]) for field in fields):
        return fail(f"nothing follows it: {_SECTION}, or leave it out", subject=where)
    null = ", or null for none" if any(type(None) in _options([field.annotation]) for field in fields) else ""
    return fail(f"nothing follows it: write its value{null}, or leave it out", subject=where)


_SECTION = "write its keys below it, or {} for its defaults"


def _explain(model: type[Document], error: Any) -> Finding:
    """One pydantic error as a finding."""
    place, models = _follow(model, error["loc"])
    where = ".".join(place)
    if error["type"] == "extra_forbidden":
        _, beside = _follow(model, error["loc"][:-1])
        known = [field.alias or key for m in beside for key, field in m.model_fields.items()]
        return fail(f"unknown key{near(place[-1], known)}", subject=where)
    if error["type"] == "missing":
        return fail("is missing", subject=where)
    if error["type"] in ("union_tag_not_found", "union_tag_invalid"):
        context = error.get("ctx", {})
        key = str(context.get("discriminator", "")).strip("'")
        kinds = ", ".join(str(tag) for m in models for tag in typing.get_args(m.model_fields[key].annotation))
        if error["type"] == "union_tag_not_found":
            return fail(f"{key} is missing: use one of {kinds}", subject=where)
        owner = place[0].removesuffix("s") if len(place) > 1 else where
        return fail(
            f"{str(context.get('tag', ''))!r} is not a {key} of {owner}: use one of {kinds}", subject=f"{where}.{key}"
        )
    if error["type"] in ("model_type", "model_attributes_type"):
        return fail(f"is a section: {_SECTION}", subject=where)
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    value = error.get("input")
    shown = (
        ""
        if isinstance(value, dict | list) or "dsn" in where or error["type"] == "value_error"
        else f" (found {value!r:.100})"
    )
    return fail(f"{message[0].lower()}{message[1:]}{shown}", subject=where)


def _follow(model: type[BaseModel], loc: Iterable[Any]) -> tuple[list[str], list[type[BaseModel]]]:
    """The key path of an error, and the models that are possible there. pydantic's location also names the member of a union
    that it tried, which is not a key."""
    place: list[str] = []
    at: list[Any] = [model]
    for part in map(str, loc):
        models = _models(at)
        tagged = [m for m in models if part in _tags(m)]
        if tagged and len(models) > 1:
            at = list(tagged)
            continue
        place.append(part)
        at = [m.model_fields[part].annotation for m in models if part in m.model_fields] + _items(at)
    return place, _models(at)


def _tags(model: type[BaseModel]) -> set[str]:
    """The values of a model's Literal keys, which tell the members of a union apart."""
    fields = (f.annotation for f in model.model_fields.values())
    return {str(tag) for a in fields if typing.get_origin(a) is Literal for tag in typing.get_args(a)}


def _options(annotations: Iterable[Any]) -> list[Any]:
    """The members of unions and Annotated types."""
    members = []
    for annotation in annotations:
        origin = typing.get_origin(annotation)
        if origin in (typing.Union, types.UnionType):
            members += _options(typing.get_args(annotation))
        elif origin is typing.Annotated:
            members += _options(typing.get_args(annotation)[:1])
        else:
            members.append(annotation)
    return members


def _models(annotations: Iterable[Any]) -> list[type[BaseModel]]:
    return [a for a in _options(annotations) if isinstance(a, type) and issubclass(a, BaseModel)]


def _items(annotations: Iterable[Any]) -> list[Any]:
    """The value types of dicts and lists."""
    return [typing.get_args(a)[-1] for a in _options(annotations) if typing.get_origin(a) in (dict, list)]
