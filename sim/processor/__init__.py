"""How processors behave in time."""
