"""What the hardware is: typed, validated descriptions and presets."""
