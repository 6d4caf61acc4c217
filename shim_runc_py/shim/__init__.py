"""The binary: what containerd executes, and the daemon that it leaves behind."""
