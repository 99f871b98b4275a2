"""HTTP requests as calls: one request, one reading."""

from decimal import Decimal

import pytest

from stepgrant.calls import HttpCalls, HttpRoute
from stepgrant.errors import GrantRefusedError, InvalidIdError, MisuseError, RefusalCode

JSON = "application/json"
CALLS = HttpCalls(
    [
        HttpRoute("orders.get", "GET", "/orders/{order_id}"),
        HttpRoute("orders.refund", "POST", "/orders/{order_id}/refund", query={"notify": bool}),
        HttpRoute("orders.search", "GET", "/search", query={"query": str, "limit": int, "at_most": Decimal}),
        HttpRoute("orders.page", "GET", "/pages/{number}", path_types={"number": int}),
    ]
)


def read(verb: str, path: str, query: str = "", body: bytes = b"", content_type: str | None = None):
    return CALLS.read(verb, path, query, body, content_type)


def refused(*request) -> RefusalCode:
    with pytest.raises(GrantRefusedError) as caught:
        read(*request)
    return caught.value.refusal.code


def test_body_path_and_query_are_merged():
    call = read("POST", "/orders/ord_1/refund", "notify=true", b'{"amount": 40.5}', JSON)
    assert call.tool == "orders.refund"
    assert call.arguments == {"amount": Decimal("40.5"), "order_id": "ord_1", "notify": True}


def test_parameters_have_the_types_that_were_registered():
    assert read("GET", "/search", "query=a+b%2Bc&limit=-5&at_most=1.5").arguments == {
        "query": "a b+c",
        "limit": Decimal(-5),
        "at_most": Decimal("1.5"),
    }
    assert read("GET", "/pages/7").arguments == {"number": Decimal(7)}
    assert read("GET", "/orders/7").arguments == {"order_id": "7"}
    assert read("GET", "/orders/%C3%A4%20b").arguments == {"order_id": "ä b"}


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("DELETE", "/orders/ord_1"),
        ("HEAD", "/orders/ord_1"),
        ("get", "/orders/ord_1"),
        ("GET", "/orders"),
        ("GET", "/orders/ord_1/"),
        ("GET", "//orders/ord_1"),
        ("GET", "/%6Frders/ord_1"),
        ("GET", "orders/ord_1"),
        ("GET", ""),
        ("GET", "/Orders/ord_1"),
        ("GET", "https://x/orders/ord_1"),
    ],
)
def test_what_is_not_registered_is_refused(verb, path):
    assert refused(verb, path) is RefusalCode.UNREGISTERED_CALL


@pytest.mark.parametrize(
    "segment",
    [
        "",
        ".",
        "..",
        "%2e%2E",
        "a%2Fb",
        "a%5Cb",
        "a%00",
        "a%0A",
        "%",
        "%4",
        "%zz",
        "%ff",
        "a b",
        "ä",
        "a?b",
        "a#b",
        "a\\b",
    ],
)
def test_a_path_parameter_that_could_be_read_otherwise_is_refused(segment):
    assert refused("GET", f"/orders/{segment}") is RefusalCode.CALL_MALFORMED


@pytest.mark.parametrize(
    "query",
    [
        "limit=1&limit=1",
        "limit=1&%6Cimit=2",
        "other=1",
        "limit",
        "limit=",
        "&",
        "limit=1&",
        "limit=01",
        "limit=1.0",
        "limit=9007199254740992",
        "at_most=1e999",
        "at_most=0.10000000000000000001",
        'at_most="1"',
        "at_most=true",
        "query=%",
        "query=%ff",
        "query=ä",
        "query=a;limit=1&limit=2&limit=3",
        "&".join(f"x{n}=1" for n in range(65)),
        "query=" + "a" * 4096,
    ],
)
def test_a_query_that_could_be_read_otherwise_is_refused(query):
    assert refused("GET", "/search", query) is RefusalCode.CALL_MALFORMED


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"order_id": "ord_2"}', JSON),
        (b'{"notify": false}', JSON),
        (b'{"amount": 1, "amount": 1}', JSON),
        (b"[]", JSON),
        (b"{", JSON),
        (b"\xff", JSON),
        (b"\xef\xbb\xbf{}", JSON),
        (b'{"amount": NaN}', JSON),
        (b"{}", None),
        (b"amount=1", "application/x-www-form-urlencoded"),
        (b"{}", "application/json; charset=latin-1"),
        (b"{}", "text/json"),
        (b'{"a": "' + b"a" * 65536 + b'"}', JSON),
        (b'{"a": ' + b"[" * 20 + b"]" * 20 + b"}", JSON),
    ],
)
def test_a_body_that_clashes_or_is_not_strict_json_is_refused(body, content_type):
    assert refused("POST", "/orders/ord_1/refund", "notify=true", body, content_type) is RefusalCode.CALL_MALFORMED


def test_a_body_where_the_verb_has_none_is_refused():
    assert refused("GET", "/orders/ord_1", "", b"{}", JSON) is RefusalCode.CALL_MALFORMED


def test_the_charset_may_be_said():
    assert read("POST", "/orders/a/refund", "", b"{}", 'application/json; charset="UTF-8"').arguments == {
        "order_id": "a"
    }


def test_the_path_is_bounded():
    assert refused("GET", "/orders/" + "a" * 4096) is RefusalCode.CALL_MALFORMED


@pytest.mark.parametrize(
    "changes",
    [
        {"tool": "orders"},
        {"verb": "get"},
        {"path": "orders"},
        {"path": "/orders/{id}/{id}"},
        {"path": "/orders/{id}", "query": {"id": str}},
        {"path": "/orders/x{id}"},
        {"path": "/a b"},
        {"path": "/a/../b"},
        {"query": {"x": list}},
        {"path_types": {"x": int}},
    ],
    ids=str,
)
def test_a_route_that_cannot_be_matched_in_one_way_is_misuse(changes):
    with pytest.raises(MisuseError):
        HttpRoute(**{"tool": "orders.get", "verb": "GET", "path": "/orders", **changes})


def test_a_parameter_must_be_a_name():
    with pytest.raises(InvalidIdError):
        HttpRoute("orders.get", "GET", "/orders/{}")


def test_two_routes_that_match_the_same_request_are_misuse():
    with pytest.raises(MisuseError, match="same requests"):
        HttpCalls([HttpRoute("a.b", "GET", "/orders/{id}"), HttpRoute("a.c", "GET", "/orders/search")])
    HttpCalls([HttpRoute("a.b", "GET", "/orders/{id}"), HttpRoute("a.c", "POST", "/orders/search")])
