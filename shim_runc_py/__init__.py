"""containerd-shim-pyrunc-v2: a containerd runtime-v2 shim in Python."""

__version__ = "0.1.0"
