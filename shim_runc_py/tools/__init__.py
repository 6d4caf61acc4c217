"""The `pyrunc` command line."""
