"""Order to sessions to outcomes."""
