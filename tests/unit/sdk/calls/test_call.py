"""How mappings refuse."""

import pytest

from stepgrant.calls.call import malformed, registered_tool, unregistered
from stepgrant.errors import MisuseError, RefusalCode


def test_refusals_say_what_to_do():
    assert unregistered("this").refusal.code is RefusalCode.UNREGISTERED_CALL
    assert malformed("that").refusal.code is RefusalCode.CALL_MALFORMED
    assert unregistered("this").refusal.next
    assert malformed("that").refusal.next


def test_a_registration_names_a_tool():
    registered_tool("orders.get", "/x")
    with pytest.raises(MisuseError, match="/x"):
        registered_tool("Orders.get", "/x")
