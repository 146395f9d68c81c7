"""DRAM and PIM devices in time."""
