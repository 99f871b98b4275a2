"""Peers of connections, and the dev trust domain."""
