"""Events: merged, de-duplicated, kept."""
