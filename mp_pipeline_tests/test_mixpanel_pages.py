"""Pages of profiles are split without changing a digit."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mp_pipeline.mixpanel.errors import IncompleteBodyError, UnexpectedAnswerError
from mp_pipeline.mixpanel.pages import parse_page

PROFILES = [
    b'{"$distinct_id":18446744073709551616,"n":123456789012345678901234567890}',
    b'{"f":1.10,"g":1e-7,"h":0.1000000000000000055511151231257827,"i":-0.0,"j":1E400}',
    b'{"a":NaN,"b":Infinity,"c":"\\ud800","d":"\\u0000"}',
    '{"a":"žluťoučký 🐎 \u2028"}'.encode(),
    b'{"a":"\xff\xfe \xed\xa0\x80"}',
    b'{"a":"\x01\t","b":[[],{}],"c":{"results":[1,{"a":"]"}]}}',
    b'{"a" : 1 , "a":2}',
    b'{"n":' + b"7" * 5000 + b"}",
    b"12",
    b'"a \\" string"',
]


@pytest.mark.parametrize("separator", [b",", b" ,\r\n\t "])
def test_profiles_come_out_as_they_are(separator: bytes) -> None:
    body = b' {"page": 0, "results": [%s], "session_id":"s-1", "total": 3, "status":"ok"}\n' % (
        separator.join(PROFILES)
    )
    page = parse_page(body)
    assert page.profiles == PROFILES
    assert page.number("total") == 3
    assert page.fields["session_id"] == "s-1"
    assert page.error is None


def test_raw_newlines_do_not_break_a_line() -> None:
    page = parse_page(b'{"results":[{\n "a": "x\ny\\"\n",\n\n "b": 1\n}]}')
    assert page.profiles == [b'{  "a": "x\\ny\\"\\n",   "b": 1 }']
    assert json.loads(page.profiles[0]) == {"a": 'x\ny"\n', "b": 1}


@pytest.mark.parametrize("body", [b'{"results":[]}', b'{ "results" : [ ] , "x":1}'])
def test_no_profiles(body: bytes) -> None:
    assert parse_page(body).profiles == []


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":"bad where","status":"error"}', "bad where"),
        (b'{"error":"bad where"}', "bad where"),
        (b'{"status":"error"}', "status error"),
        (b'{"results":[{"a":1}],"error":"timeout","status":"ok"}', "timeout"),
        (b'{"results":[{"a":1}],"status":"partial"}', "status partial"),
        (b'{"results":[],"error":{"code":7}}', "{'code': '7'}"),
        (b'{"results":[],"error":null,"status":"ok"}', None),
        (b'{"results":[],"error":"","status":null}', None),
    ],
)
def test_an_error(body: bytes, error: str | None) -> None:
    assert parse_page(body).error == error


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\r\n",
        b"{",
        b"[]",  # may hold users' data, so it is not quoted
        b'{"results":[]}<html>',
        b'{"results":{}}',
        b'{"results":[1 2]}',
        b'{"results":[1,]}',
        b'{"results":[]}terminated early',
        b'{"results":[],}',
        b'{[]:1,"results":[]}',
        b'{"results":[' + b"[" * 100_000,
    ],
)
def test_what_is_not_a_whole_page(body: bytes) -> None:
    with pytest.raises(IncompleteBodyError):
        parse_page(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"null",
        b"<html>\n<title>Log in</title>\n</html>\n\n",
        b"Bad gateway",
        b'"results"',
        b'{"status":"ok"}',
    ],
)
def test_what_is_not_a_page_at_all_is_quoted(body: bytes) -> None:
    with pytest.raises(UnexpectedAnswerError, match="is not the requested JSON") as caught:
        parse_page(body)
    assert caught.value.mixpanel_message == body.decode().strip()


def test_every_cut_of_a_page_is_seen() -> None:
    body = b'{"page":0,"results":[{"a":"b"},{"c":[1,2]}],"status":"ok","total":2}'
    for end in range(len(body)):
        with pytest.raises(IncompleteBodyError):
            parse_page(body[:end])


def test_a_byte_order_mark_at_the_beginning_is_not_part_of_a_page() -> None:
    assert parse_page(b'\xef\xbb\xbf{"results":[{"a":1}]}').profiles == [b'{"a":1}']


@pytest.mark.parametrize("total", [b"null", b"1.5", b"NaN", b"-1", b'"many"', b"{}"])
def test_a_total_that_is_not_a_number_is_none(total: bytes) -> None:
    assert parse_page(b'{"results":[],"total":%s}' % total).number("total") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(deadline=None, max_examples=25)
@given(profiles=st.lists(JSON), ascii_only=st.booleans(), indent=st.none() | st.integers(0, 2))
def test_any_json(profiles: list[object], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps({"results": profiles, "status": "ok"}, ensure_ascii=ascii_only, indent=indent)
    page = parse_page(text.encode("utf-8", "surrogatepass"))
    assert all(b"\n" not in profile for profile in page.profiles)
    read = [json.loads(profile.decode("utf-8", "surrogatepass")) for profile in page.profiles]
    assert json.dumps(read) == json.dumps(profiles)
