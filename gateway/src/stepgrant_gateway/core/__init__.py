"""The pure core: values and times in, values out. No clock, no randomness, no I/O, no third-party package."""
