"""The HTTP face: metrics and health, for whoever looks after the gateway."""
