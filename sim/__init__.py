"""How hardware behaves in time: programs, engines, energy, statistics."""
