"""What must survive the controller: desired and observed state in SQLite, written by one thread in batches."""
