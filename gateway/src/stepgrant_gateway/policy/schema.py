"""The Cedar schema that follows from a catalog (design 5.1, 5.2)."""

from __future__ import annotations

from stepgrant_gateway.policy.catalog import LoadedCatalog


def derive_schema(catalog: LoadedCatalog) -> str:
    """The schema in Cedar's own text form."""
    raise NotImplementedError
