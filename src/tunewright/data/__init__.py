"""What is asked, and of which rows: sources, columns, labels, duplicates, splits."""
