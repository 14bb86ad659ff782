"""What is measured and how; each module is a command that prints a table."""
