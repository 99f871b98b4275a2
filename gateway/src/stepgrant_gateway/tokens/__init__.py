"""Signing keys, and minting."""
