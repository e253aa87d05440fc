"""Measurements: speed beside Postfix, and what messages cost on AWS."""
