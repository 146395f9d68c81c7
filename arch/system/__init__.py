"""Systems: units, memories and the links between them."""
