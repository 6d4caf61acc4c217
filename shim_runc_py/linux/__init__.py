"""Rooms of the kernel: one subject a module, raising OSError, knowing nothing of containers."""
