"""The commands for a SPIRE server."""

from __future__ import annotations

from stepgrant_gateway.cli.registration import add_dns_name, create_entry


def test_an_entry_is_one_command_that_a_shell_takes_in_two_lines():
    agent = create_entry("spiffe://acme.org/agent", 1000)

    assert agent.replace("\\\n    ", "") == (
        "spire-server entry create -parentID AGENT -spiffeID spiffe://acme.org/agent -selector unix:uid:1000"
    )
    assert create_entry("spiffe://acme.org/agent", 1000, dns="gateway") == f"{agent} -dns gateway"


def test_an_update_says_the_whole_entry():
    shown, *updated = add_dns_name("spiffe://acme.org/gateway", "gateway").splitlines()

    assert shown == "spire-server entry show -spiffeID spiffe://acme.org/gateway"
    for flag in ("-entryID", "-parentID", "-spiffeID", "-selector", "-dns gateway"):
        assert flag in " ".join(updated)
