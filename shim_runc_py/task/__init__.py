"""Containers, their processes, and the service that containerd calls."""
