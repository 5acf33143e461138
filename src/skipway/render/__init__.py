"""What people look at: the table with rails, the code that builds a chain again."""
