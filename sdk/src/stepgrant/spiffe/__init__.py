"""SPIFFE: IDs, bundles and X.509-SVID verification (pure), and the sources that bring them (I/O)."""
