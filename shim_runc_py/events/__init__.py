"""Task events: what they are called, and how they reach containerd."""
