"""Rotation under load, with the embedded trust domain: no step is refused, and what is removed is out."""

from __future__ import annotations

import asyncio

import pytest

from stepgrant.spiffe.source import IdentitySnapshot
from stepgrant_gateway.identity.dev import DEV_TRUST_DOMAIN
from tests.faults.rotating import PATIENCE, loaded
from tests.kit.running import IDENTITIES, Running, running_gateway

ALL = tuple(identity.path for identity in IDENTITIES)


async def settled(running: Running) -> None:
    """Returns when every source has what the Workload API hands out now."""
    async with asyncio.timeout(PATIENCE):
        for path, source in running.sources.items():
            while not _has_newest(running, path, source.current()):  # noqa: ASYNC110 - no event says "newest"
                await asyncio.sleep(0.005)


def _has_newest(running: Running, path: str, snapshot: IdentitySnapshot) -> bool:
    bundle = snapshot.bundles.get(DEV_TRUST_DOMAIN)
    same = bundle is not None and set(bundle.authorities) == set(running.domain.bundle.authorities)
    return same and snapshot.chain_der == running.api.svid(path).chain_der


async def rotate(running: Running, *paths: str) -> None:
    running.api.reissue(*paths)
    await settled(running)


@pytest.mark.parametrize("path", ["gateway", "resource/orders", "resource/mail", "agent/support"])
async def test_id_08_a_new_leaf_under_load_refuses_no_step(path):
    async with running_gateway() as running, loaded(running) as load:
        await load.goes_on()
        for _ in range(3):
            await rotate(running, path)
            await load.goes_on()
    assert load.refused == []


async def test_tk_15_signing_keys_rotate_under_load_and_no_step_is_refused():
    async with running_gateway() as running, loaded(running) as load:
        application = running.gateway.application
        for _ in range(5):
            await load.goes_on()
            application.keys.rotate(application.feed.publish)
        await load.goes_on()
    assert load.refused == []


async def test_id_08_a_new_authority_under_load():
    async with running_gateway() as running, loaded(running) as load:
        await load.goes_on()
        running.domain.prepare()
        await rotate(running)
        await load.goes_on()
        running.domain.activate()
        await rotate(running, *ALL)
        await load.goes_on(100)
        running.domain.remove()
        await rotate(running)
        await load.goes_on()
    assert load.refused == []
