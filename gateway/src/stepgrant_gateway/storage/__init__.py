"""Storage engines behind the ledger port."""
