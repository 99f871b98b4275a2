"""Calls to protected resources: the grant of the current step goes along, to its own audience only (design 4)."""
