"""Bytes from outside: valid ones with a few things done to them, and ones that never were anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

ODD = (b"", b"\0", b"\xff", b"\x80", b"\r\n", b"-----BEGIN CERTIFICATE-----", b"\x30\x80", b"{", b"[" * 40, b'"', b"\\u0000", b".", b"=",
       b"1e400", b"-0", b"9" * 40, b"\xed\xa0\x80", b"\xef\xbb\xbf", b"null")  # fmt: skip
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 2**33),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "AAAA", "spiffe://acme.org/a", "x509-svid", "jwt-svid", "RSA", "EC", "P-256", "\ud800", "none"]
    ),
)
json_values = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with up to four edits: a byte changed, a piece cut, doubled, put in, or taken from another seed."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 4))):
        start, length = draw(st.integers(0, max(len(data), 1))), draw(st.integers(0, 40))
        match draw(st.sampled_from(("byte", "cut", "double", "insert", "graft", "end"))):
            case "byte":
                data = data[:start] + bytes((draw(st.integers(0, 255)),)) + data[start + 1 :]
            case "cut":
                data = data[:start] + data[start + length :]
            case "double":
                data = data[: start + length] + data[start:]
            case "insert":
                data = data[:start] + draw(st.sampled_from(ODD) | st.binary(max_size=8)) + data[start:]
            case "graft":
                other = draw(st.sampled_from(seeds))
                data = data[:start] + other[start : start + length] + data[start + length :]
            case _:
                data = data[:start]
    return data


@st.composite
def rewritten(draw: st.DrawFn, seeds: Sequence[Any]) -> Any:
    """A JSON value made of one of the seeds, one to three of its parts replaced by anything, taken out, or named anew."""
    value = json.loads(json.dumps(draw(st.sampled_from(seeds))))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(value))
        if not places:
            return draw(json_values)
        container, key = draw(st.sampled_from(places))
        match draw(st.sampled_from(("replace", "replace", "remove", "add"))):
            case "replace":
                container[key] = draw(json_values)
            case "remove":
                del container[key]
            case _ if isinstance(container, dict):
                container[draw(st.text(max_size=6))] = draw(json_values)
            case _:
                container.append(draw(json_values))
    return value


def as_json(value: Any) -> bytes:
    """JSON text of anything, NaN and lone surrogates as well."""
    return json.dumps(value, ensure_ascii=True).encode()


def _places(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [place for key in list(value) for place in ((value, key), *_places(value[key]))]
    if isinstance(value, list):
        return [place for index in range(len(value)) for place in ((value, index), *_places(value[index]))]
    return []
