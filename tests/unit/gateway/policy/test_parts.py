"""Formats are read in one strict way; what two readers could take for two things is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.errors import ArgumentsInvalidError
from stepgrant_gateway.policy.parts import COLUMNS, NO_PORT, normalised, parse_part
from stepgrant_gateway.policy.shapes import Format


@pytest.mark.parametrize(
    ("form", "text", "normal", "columns"),
    [
        (Format.EMAIL, "Jo.B+x@X.Org", "Jo.B+x@x.org", ("Jo.B+x@x.org", "Jo.B+x", "x.org")),
        (Format.EMAIL, "jo@localhost", "jo@localhost", ("jo@localhost", "jo", "localhost")),
        (Format.HOSTNAME, "WWW.Example.org", "www.example.org", ("www.example.org",)),
        (Format.HOSTNAME, "xn--bcher-kva.example", "xn--bcher-kva.example", ("xn--bcher-kva.example",)),
        (Format.PATH, "/srv//a/./b/", "/srv/a/b", ("/srv/a/b", "/srv/a", "b")),
        (Format.PATH, "a", "a", ("a", ".", "a")),
        (Format.PATH, "./a/b.txt", "a/b.txt", ("a/b.txt", "a", "b.txt")),
        (Format.PATH, "/", "/", ("/", "/", "")),
        (Format.PATH, ".", ".", (".", ".", "")),
        (Format.PATH, "//a", "/a", ("/a", "/", "a")),
        (Format.URI, "HTTPS://Example.ORG", "https://example.org/", ("https", "example.org", 443, "/")),
        (Format.URI, "https://x.org:443/a", "https://x.org/a", ("https", "x.org", 443, "/a")),
        (Format.URI, "http://x.org:8080/a?b#c", "http://x.org:8080/a?b#c", ("http", "x.org", 8080, "/a")),
        (Format.URI, "s3://bucket/k", "s3://bucket/k", ("s3", "bucket", NO_PORT, "/k")),
        (Format.URI, "http://10.0.0.1/%7ea%c3%a9", "http://10.0.0.1/~a%C3%A9", ("http", "10.0.0.1", 80, "/~a%C3%A9")),
        (Format.URI, "http://[0:0::1]:81/", "http://[::1]:81/", ("http", "[::1]", 81, "/")),
    ],
)
def test_what_parses_has_one_normal_form_and_its_columns(form, text, normal, columns):
    part = parse_part(form, text)
    assert part.normal == normal
    assert dict(part.columns) == dict(zip(COLUMNS[form], columns, strict=True))


@pytest.mark.parametrize(
    ("form", "texts"),
    [
        (
            Format.EMAIL,
            [
                "",
                "jo",
                "@x.org",
                "jo@",
                "a@b@c",
                '"a b"@x.org',
                "jo@[10.0.0.1]",
                "jo@10.0.0.1",
                "Jo <jo@x.org>",
                "jo@x.org,al@x.org",
                "jo@x.org\n",
                " jo@x.org",
                "jö@x.org",
                "jo@bücher.example",
                ".jo@x.org",
                "j..o@x.org",
                "jo@x_y.org",
                "jo@-x.org",
                "jo@x.org.",
                "a" * 65 + "@x.org",
                "jo@" + "a." * 130 + "org",
                "jo@ｘ.org",
            ],
        ),
        (
            Format.HOSTNAME,
            ["", "x..org", "x.org.", "-x.org", "x-.org", "x_y", "1.2.3.4", "x.0x7f", "a" * 64, "é.org", "x\n"],
        ),
        (Format.PATH, ["", "..", "a/../b", "/..", "a\\..\\b", "a\x00b", "é", "a\n", "a" * 1025]),
        (
            Format.URI,
            [
                "",
                "x.org",
                "//x.org",
                "mailto:jo@x.org",
                "file:///etc/passwd",
                "http://",
                "http://u:p@x.org/",
                "http://x.org\\@y.org/",
                "http://x.org#@y.org/\\",
                "http://x.org/a/../b",
                "http://x.org/%2e%2E/b",
                "http://x.org/a%2fb",
                "http://x.org/a%5cb",
                "http://x.org/%00",
                "http://x.org/%zz",
                "http://x.org/a b",
                "http://x.org:0/",
                "http://x.org:080/",
                "http://x.org:65536/",
                "http://x.org:/",
                "http://0x7f.1/",
                "http://127.1/",
                "http://010.0.0.1/",
                "http://2130706433/",
                "http://[::1%25eth0]/",
                "http://[::1/",
                "http://[::1]x/",
                "http://é.org/",
                "http://x.org/é",
                "http://x.org/\n",
                "1http://x.org/",
                "http://x.org/" + "a" * 2048,
            ],
        ),
    ],
)
def test_what_does_not_parse_is_denied_with_a_fix(form, texts):
    for text in texts:
        with pytest.raises(ArgumentsInvalidError) as refused:
            parse_part(form, text, "to[1]")
        assert refused.value.argument == "to[1]"
        assert refused.value.fix


@given(st.sampled_from(list(Format)), st.text(st.characters(max_codepoint=127), max_size=40))
def test_a_normal_form_is_its_own_normal_form(form, text):
    for candidate in (text, f"http://x.org/{text}", f"{text}@x.org"):
        try:
            normal = normalised(form, candidate)
        except ArgumentsInvalidError:
            continue
        assert normalised(form, normal) == normal
        assert parse_part(form, normal).columns == parse_part(form, candidate).columns
