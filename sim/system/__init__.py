"""Programs of tasks, run on the units of a system."""
