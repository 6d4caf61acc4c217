"""Plays containerd's part: run OCI bundles through a real shim, without a containerd.

    bundles     bundles made from fixtures, with a busybox rootfs
    shims       a shim binary started as containerd starts it, and a client of it
    sink        the place where the shim's events arrive
    pipes       the client's ends of the stdio FIFOs
    engines     a fake engine that hangs, lies or dies where it is told to
    leaks       what is left behind, looked up and named
    conditions  the engine, the cgroup driver and the patience of a session
    daemon      a private containerd with everything in a directory of its own
    plugin      all of it as pytest fixtures

Everything has a bound; nothing of the host's containerd is touched, but for the socket directory
/run/containerd/s, which containerd up to 2.2 leaves no choice about (CONTRACT 4.1).
"""
