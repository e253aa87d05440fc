"""Says which proxy owns which sending IP, and keeps the stores tidy."""
