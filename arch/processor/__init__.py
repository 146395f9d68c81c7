"""Processors: what CPUs, GPUs, NPUs and systolic arrays are."""
