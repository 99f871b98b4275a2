"""The Stepgrant gateway."""
