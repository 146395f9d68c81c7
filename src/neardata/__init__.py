"""Cycle-level simulator of near-data accelerators."""
