"""Parts of the web page without a server: text, addresses, places in a list, links, its section of worker.yaml."""

import os
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from turbo.client.paging import GROUPS, BadCursor, Cursor
from turbo.config.web import WebSection
from turbo.web.sign_in import LINK_SECONDS, SESSION_SECONDS, SignIns
from turbo.web.text import age, environment, task_url

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


@given(TEXT)
def test_values_are_escaped_and_made_visible(text: str):
    made = environment().from_string("<p title='{{ one }}'>{{ one }}</p>").render(one=text)
    inside = made.removeprefix("<p title='").removesuffix("</p>")
    assert not set('<"\x1b\u202e\u200b') & set(inside.replace("'>", "", 1))


@given(TEXT)
def test_exact_values_come_back_as_they_were(text: str):
    made = environment().from_string('<input value="{{ one | exact }}">').render(one=text)
    assert unescape(made.split('"')[1]) == text


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20))
def test_address_of_a_task_leads_to_that_task(task_id: str):
    parts = urlsplit("http://host" + task_url(task_id))
    if parts.query:
        assert unquote(parts.query.removeprefix("id=")) == task_id
    else:
        assert unquote(parts.path.removeprefix("/tasks/")) == task_id
    assert not {"", ".", ".."} & set(parts.path.removeprefix("/tasks/").split("/")) or parts.query


@given(st.sampled_from(GROUPS), TEXT.filter(bool), st.none() | st.integers(-(2**31) + 1, 2**31 - 1), TEXT, TEXT)
def test_place_in_a_list_survives_its_url(group: str, queue: str, priority: int | None, moment: str, task_id: str):
    place = Cursor(group, queue, priority, moment, task_id)
    assert Cursor.read(place.text()) == place


@pytest.mark.parametrize(
    "text", ["", "x", "!!", "W10", "bnVsbA", "WyJwZW5kaW5nIiwgMSwgMSwgMSwgMV0", "\u00e9", "a" * 1001]
)
def test_text_that_is_no_place_is_refused(text: str):
    with pytest.raises(BadCursor):
        Cursor.read(text)


def test_ages_have_two_units():
    assert [age(s) for s in (None, 0, 59.9, 61, 3661, 90_000)] == ["", "0s", "59s", "1m01s", "1h01m", "1d01h"]


def test_links_and_sessions_end(tmp_path: Path):
    sign_ins = SignIns(tmp_path)
    old = sign_ins.new_link()
    (path,) = (tmp_path / "links").iterdir()
    os.utime(path, (0, path.stat().st_mtime - LINK_SECONDS - 1))
    assert sign_ins.sign_in(old) is None, "too old"
    secret = SignIns(tmp_path).sign_in(sign_ins.new_link())
    assert secret is not None
    assert sign_ins.signed_in(secret), "another process made it"
    (path,) = (tmp_path / "sessions").iterdir()
    os.utime(path, (0, path.stat().st_mtime - SESSION_SECONDS - 1))
    assert not sign_ins.signed_in(secret)
    for text in ("", "../../x", "a" * 43, "\n"):
        assert not sign_ins.signed_in(text)
        assert sign_ins.sign_in(text) is None


@pytest.mark.parametrize(
    "keys",
    [
        {"url": "ftp://x"},
        {"url": "https://x/path"},
        {"url": "https://user@x"},
        {"url": "https://x:99999"},
        {"url": "turbo.example.com"},
        {"trusted_proxies": ["proxy"]},
        {"trusted_proxies": ["10.0.0.1/8"]},
        {"user_header": "X Y"},
        {"port": 70_000},
    ],
    ids=str,
)
def test_section_refuses_what_cannot_be_served(keys: dict[str, object]):
    with pytest.raises(ValidationError):
        WebSection(**keys)  # type: ignore[arg-type]


def test_section_keeps_an_address_without_its_slash():
    assert WebSection(url="https://turbo.example.com/").url == "https://turbo.example.com"
