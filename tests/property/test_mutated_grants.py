"""A grant is one string: whatever is changed in it, in the call or in its holder, it is no grant any more."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepgrant.calls import Call
from stepgrant.errors import GrantRefusedError
from stepgrant.verify.verifier import TlsHolder, verify_grant
from tests.kit.enforcement import AGENT, CERTIFICATE, REFUND, ResourceDouble

RESOURCE = ResourceDouble()
TOKEN = RESOURCE.gateway.mint()
HOLDER = TlsHolder(AGENT, CERTIFICATE)
_leaves = st.none() | st.booleans() | st.text(max_size=5) | st.integers(-(2**53) + 1, 2**53 - 1).map(Decimal)
_values = st.recursive(
    _leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def verify(token: str, call: Call = REFUND) -> None:
    verify_grant(
        token,
        call,
        HOLDER,
        expected=RESOURCE.expected,
        feed=RESOURCE.feed,
        replay=RESOURCE.replay,
        now=RESOURCE.clock.now(),
        monotonic=RESOURCE.clock.monotonic(),
    )


@given(position=st.integers(0, len(TOKEN) - 1), character=st.characters())
def test_no_other_token_passes_inv_08(position, character):
    """INV-08: any character changed."""
    changed = TOKEN[:position] + character + TOKEN[position + 1 :]
    if changed == TOKEN:
        return
    with pytest.raises(GrantRefusedError):
        verify(changed)


@given(st.text(max_size=200) | st.text("abcdefABCDEF0123456789-_.", max_size=200))
def test_no_text_at_all_passes_or_fails_otherwise(text):
    with pytest.raises(GrantRefusedError):
        verify(text)


@given(st.dictionaries(st.sampled_from(["order_id", "amount", "note"]), _values))
def test_no_other_arguments_pass_inv_08(arguments):
    """INV-08: one digest, one set of arguments."""
    if arguments == REFUND.arguments:
        return
    with pytest.raises(GrantRefusedError):
        verify(TOKEN, Call(REFUND.tool, arguments))


@given(st.permutations(list(REFUND.arguments.items())))
def test_their_order_does_not_matter(items):
    verify(TOKEN, Call(REFUND.tool, dict(items)))
