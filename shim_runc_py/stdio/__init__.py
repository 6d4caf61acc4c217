"""The three streams of a process: where they go, and who moves the bytes."""
