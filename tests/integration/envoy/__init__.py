"""Stepgrant behind real Envoy, as `make envoy` installs it, with its SVID from real SPIRE: all of it as docs/operations.md says."""
