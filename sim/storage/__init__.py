"""Solid-state drives in time: flash back-end, translation layer, host link."""
