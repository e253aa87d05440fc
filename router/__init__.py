"""Unit to plan: site, pool, binding; Orders released, the rest parked."""
