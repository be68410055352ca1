"""What a fleet is configured to be: its file's tables, what they come to, and what of it holds here and now."""
