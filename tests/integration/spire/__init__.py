"""Stepgrant against real SPIRE, as `make spire` builds it: everything that runs is a process of its own, attested by SPIRE."""
