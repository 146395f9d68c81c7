"""Links between units: what they are."""
