"""Records every reconstruction, dead letter and ended scan in a database; serves the RecordService."""
