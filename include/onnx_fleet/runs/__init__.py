"""The steps in a row for one model, its record, a run's report, audits and rollback."""
