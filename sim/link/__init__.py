"""How links behave in time."""
