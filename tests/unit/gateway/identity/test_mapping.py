"""From claims to a workload: every value one segment, every condition exact, and nothing ever outside its own path."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.errors import InvalidInputError
from stepgrant.intent import from_python
from stepgrant.spiffe.ids import parse_spiffe_id
from stepgrant_gateway.core.errors import ConfigError
from stepgrant_gateway.identity.mapping import Mapped, overlap

CI = parse_spiffe_id("spiffe://acme.org/ci")
TEMPLATE = "spiffe://acme.org/ci/{repository_owner}/repo-{repository_id}"
CLAIMS = {"repository_owner": "acme", "repository_id": "42", "ref": "refs/heads/main", "private": True}


def made(claims: dict[str, Any], template: str = TEMPLATE, **where: Any) -> str:
    given_claims = from_python(claims)
    assert isinstance(given_claims, dict)
    return str(Mapped(CI, template, where or {"repository_owner": "acme"}).workload(given_claims))


def test_claims_fill_the_template() -> None:
    assert made(CLAIMS) == "spiffe://acme.org/ci/acme/repo-42"
    named = "spiffe://acme.org/ci/x/{acme.org/team}"
    assert made({**CLAIMS, "acme.org/team": "shop"}, named) == "spiffe://acme.org/ci/x/shop"


POD = {
    "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "runner", "uid": "u"}},
    "a/b": {"~c": "d"},
    "list": ["x"],
}


def test_a_claim_within_others_is_named_by_a_pointer() -> None:
    """RFC 6901; what a Kubernetes service account token says of its pod."""
    template = "spiffe://acme.org/ci/{/kubernetes.io/namespace}/{/kubernetes.io/serviceaccount/name}"
    where = {"/kubernetes.io/namespace": "shop"}
    assert made(POD, template, **where) == "spiffe://acme.org/ci/shop/runner"
    assert made(POD, "spiffe://acme.org/ci/{/a~1b/~0c}", **where) == "spiffe://acme.org/ci/d"
    for nowhere in ("/kubernetes.io/pod/name", "/kubernetes.io", "/list/0", "/", "//", "/kubernetes.io/namespace/shop"):
        with pytest.raises(InvalidInputError, match="not one segment"):
            made(POD, f"spiffe://acme.org/ci/{{{nowhere}}}", **where)
        with pytest.raises(InvalidInputError, match="not what the mapping asks for"):
            made(POD, template, **{nowhere: "x"})


@pytest.mark.parametrize(
    "value",
    [
        "a/b", "/", "..", ".", "", "*", "a*", "a b", "a%2fb", "a\\b", "a\x00", "a\n", "\u0430", "{repository_id}", "a:b", "a?b", "a#b",
        "x" * 2048, None, 42, True, ["acme"], {"a": "b"},
    ],
)  # fmt: skip
def test_id_04_a_value_that_is_not_one_segment_is_refused_by_the_name_of_its_claim(value: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"`repository_id` is not one segment|takes 20"):
        made({**CLAIMS, "repository_id": value})


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_the_claims_say_the_workload_lies_two_segments_below_the_mapping_s_own_path(
    owner: str, repository: str
) -> None:
    try:
        workload = made({"repository_owner": owner, "repository_id": repository, "ok": True}, ok=True)
    except InvalidInputError:
        return
    assert re.fullmatch(r"spiffe://acme\.org/ci/[A-Za-z0-9._-]+/repo-[A-Za-z0-9._-]+", workload)
    assert workload == f"spiffe://acme.org/ci/{owner}/repo-{repository}"


@pytest.mark.parametrize(
    ("wanted", "value", "holds"),
    [
        ("refs/heads/main", "refs/heads/main", True),
        ("refs/heads/main", "refs/heads/main2", False),
        ("refs/heads/main", "Refs/heads/main", False),
        ("refs/heads/*", "refs/heads/v1", True),
        ("refs/heads/*", "refs/heads/a/b", False),
        ("refs/heads/*", "refs/heads/a:b", False),
        ("refs/heads/*", "x/refs/heads/a", False),
        ("refs/heads/*", "refs/heads/a\n", False),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop:ref:refs/heads/main", True),
        ("repo:acme/*:ref:refs/heads/main", "repo:acme/shop:environment:x:ref:refs/heads/main", False),
        ("a.c", "abc", False),
        ("a", ["a"], False),
        ("true", True, False),
        (True, True, True),
        (True, "true", False),
        (True, 1, False),
        (True, False, False),
        ("a", None, False),
    ],
)
def test_a_condition_holds_for_exactly_what_it_says(wanted: Any, value: Any, holds: bool) -> None:
    if holds:
        assert made({**CLAIMS, "ref": value}, ref=wanted)
    else:
        with pytest.raises(InvalidInputError, match="`ref` is not what the mapping asks for"):
            made({**CLAIMS, "ref": value}, ref=wanted)


def test_every_condition_must_hold_and_a_claim_that_is_not_there_is_none() -> None:
    with pytest.raises(InvalidInputError, match="`environment`"):
        made(CLAIMS, ref="refs/heads/main", environment="production")


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("spiffe://acme.org/ci", "does not begin with"),
        ("spiffe://acme.org/cix/{a}", "does not begin with"),
        ("spiffe://other.org/ci/{a}", "does not begin with"),
        ("spiffe://acme.org/ci/", "segment"),
        ("spiffe://acme.org/ci/../{a}", "segment"),
        ("spiffe://acme.org/ci//{a}", "segment"),
        ("spiffe://acme.org/ci/{a}{b}", "segment"),
        ("spiffe://acme.org/ci/{a}-{b}", "segment"),
        ("spiffe://acme.org/ci/{a", "segment"),
        ("spiffe://acme.org/ci/{}", "segment"),
        ("spiffe://acme.org/ci/*", "segment"),
        ("spiffe://acme.org/ci/same", "names no"),
    ],
)
def test_a_template_that_could_leave_its_path_or_tells_nobody_apart_is_refused(template: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Mapped(CI, template, {"a": "b"})


def test_a_mapping_without_conditions_or_without_a_path_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="no condition"):
        Mapped(CI, TEMPLATE, {})
    with pytest.raises(ConfigError, match="a trust domain"):
        Mapped(parse_spiffe_id("spiffe://acme.org"), "spiffe://acme.org/{a}", {"a": "b"})


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("spiffe://acme.org/ci", True),
        ("spiffe://acme.org/ci/github", True),
        ("spiffe://acme.org", True),
        ("spiffe://acme.org/cix", False),
    ],
)
def test_paths_overlap_by_whole_segments(other: str, expected: bool) -> None:
    assert overlap(CI, parse_spiffe_id(other)) is expected
    assert overlap(parse_spiffe_id(other), CI) is expected
