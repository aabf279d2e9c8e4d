"""Numbers and shapes of a configuration file: each has bounds, and what is outside of them is one clear line."""

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from turbo.cli.main import COMMANDS, _build
from turbo.client.client import Client
from turbo.client.new_task import BadField
from turbo.client.timestamps import BadTimestamp, TimestampReader
from turbo.config.loader import ConfigError
from turbo.config.worker import WorkerConfig, load_worker_config
from turbo.fleet.model import FleetConfig, load_fleet

EXECUTORS = "executors: {x: {kind: python, handler: 'turbo.testing:noop'}}\n"


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for one in _types(field.annotation):
            if isinstance(one, type) and issubclass(one, BaseModel):
                yield from sections(one)


def _types(annotation: Any) -> Iterator[Any]:
    arguments = typing.get_args(annotation)
    yield annotation
    for argument in arguments:
        yield from _types(argument)


def numbers() -> list[tuple[type[BaseModel], str]]:
    found = {
        (section, name)
        for model in (WorkerConfig, FleetConfig)
        for section in sections(model)
        for name, field in section.model_fields.items()
        if {int, float} & set(_types(field.annotation))
    }
    return sorted(found, key=lambda one: (one[0].__name__, one[1]))


def test_every_number_of_a_file_has_two_bounds() -> None:
    unbounded = []
    assert len(numbers()) > 25
    for section, name in numbers():
        field = section.model_fields[name]
        inner = [one.metadata for one in _types(field.annotation) if isinstance(one, FieldInfo)]
        bounds = [bound for metadata in (field.metadata, *inner) for bound in metadata]
        if not any(isinstance(b, Ge | Gt) for b in bounds) or not any(isinstance(b, Le) for b in bounds):
            unbounded.append(f"{section.__name__}.{name}")
        if not any(
            isinstance(one, BeforeValidator) for one in _types(section.model_fields[name].annotation)
        ) and not any(isinstance(b, BeforeValidator) for b in bounds):
            unbounded.append(f"{section.__name__}.{name} takes true for 1")
    assert unbounded == []


def refusal(tmp_path: Path, text: str) -> str:
    file = tmp_path / "worker.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_worker_config(file)
    return str(caught.value)


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1.0e+308", "-1", "-0.0", "true", "9" * 400, "9" * 5000])
def test_lease_out_of_bounds_is_one_clear_line(tmp_path: Path, value: str) -> None:
    text = refusal(tmp_path, f"{EXECUTORS}worker: {{lease_seconds: {value}}}")
    assert "worker.yaml" in text
    assert text.count("\n") == 0
    assert len(text) < 300
    if len(value) < 300:
        assert "worker.lease_seconds" in text


@pytest.mark.parametrize(
    "text",
    [
        "worker: {slots: true}",
        "worker: {slots: .inf}",
        "worker: {slots: 2026-01-01}",
        "worker: {slots: 10:00:00}",
        "worker: {name: 2026-01-01}",
        "worker: {name: yes}",
        "worker: {queues: [2026-01-01]}",
        "metrics: {port: true}",
        "metrics: {port: -0x1}",
        "retry: {max_seconds: .nan}",
        "retention: {completed_days: .inf}",
        "worker: {name: 2026-99-99}",
        "worker: {drain_seconds: 1e999}",
        "worker: {files_gb: 1.0e+300}",
        "worker: {name: !!binary x}",
        "worker: &a {labels: *a}",
        "worker: {labels: " + "[" * 3000 + "]" * 3000 + "}",
        "? {a: 1}\n: 2",
    ],
)
def test_odd_value_is_a_clear_refusal(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, EXECUTORS + text)
    assert "worker.yaml" in message
    assert "Traceback" not in message
    assert len(message) < 600


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "too many values" in refusal(tmp_path, EXECUTORS + "\n".join(lines))


def test_file_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert "is longer than" in refusal(tmp_path, EXECUTORS + "# " + "x" * 3_000_000)


def test_usual_values_are_read_as_before(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    more = "worker: {slots: '7', lease_seconds: 1000000, drain_seconds: 1800, files_days: null, labels: {a: 'true'}}"
    file.write_text(EXECUTORS + more)
    section = load_worker_config(file).worker
    assert (section.slots, section.lease_seconds, section.drain_seconds) == (7, 1_000_000, 1800)


def test_fleet_numbers_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    file.write_text("hosts: {a: {manager: systemd, workers: [{name: a, count: true, slots: .inf}]}}")
    with pytest.raises(ConfigError) as caught:
        load_fleet(file)
    assert {"hosts.a.workers.0.count", "hosts.a.workers.0.slots"} <= set(str(caught.value).replace(": ", " ").split())


NUMBERS_OF_COMMANDS = [
    ("doctor", "--old-transaction"),
    ("fleet", "restart", "--up-within"),
    ("migrate", "--lock-timeout"),
    ("migrate", "--attempts"),
    ("migrate", "--wait"),
    ("submit", "x", "--priority"),
    ("submit", "x", "--timeout"),
    ("submit", "x", "--max-retries"),
    ("submit", "x", "--batch"),
    ("submit", "x", "--from-line"),
    ("tasks", "--limit"),
    ("top", "--once", "--interval"),
    ("db", "start", "--port"),
]


@pytest.mark.parametrize("command", NUMBERS_OF_COMMANDS)
def test_number_of_a_command_out_of_range_is_wrong_usage(command: tuple[str, ...]) -> None:
    """Before anything else happens: nothing listens where the DSN points."""
    app = _build(list(COMMANDS))
    for text in ("inf", "nan", "9" * 400):
        dsn = ["--dsn", "host=127.0.0.1 port=1"] if command[0] != "db" else []
        done = CliRunner().invoke(app, [*command, text, *dsn])
        assert (done.exit_code, type(done.exception)) in ((2, SystemExit), (1, BadField)), (text, done.output)


@pytest.mark.parametrize(
    "text",
    ["99999999999d", "9" * 40 + "d", "inf", "nan", "1e999d", "292277026597-01-01", "9" * 300, " " * 100_000 + "x"],
)
def test_moment_out_of_range_is_a_bad_parameter(dsn: str, text: str) -> None:
    with Client(dsn) as client:
        reader = TimestampReader(client)
        for read in (reader.since, reader.after):
            with pytest.raises(BadTimestamp):
                read(text)
