"""The ledger: published claims, measured results, verdicts."""
