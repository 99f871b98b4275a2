"""Stepgrant: just-in-time grants for the steps of AI agents."""
