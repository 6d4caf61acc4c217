"""Driving an OCI engine: runc, crun, or any other with the same command line."""
