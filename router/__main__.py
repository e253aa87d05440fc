"""`python -P -m router --data DIR`: wires the router to its stores and clock."""
