"""Verifying grants at the resource."""
