"""Benchmarks against the stock shim: `python -m benchmarks`, or `make bench`.

Every number is taken twice, with our shim and with the `containerd-shim-runc-v2` of the same
containerd, in turns: ours, stock, stock, ours, ... What is told is the median of the ratios within
those pairs, since a noisy machine disturbs both halves of a pair alike.

    summary    medians, ratios, slopes                        pure
    pairing    both shims in turns                            pure
    results    what a run has found, and its JSON             pure
    targets    what has to be reached                         pure
    report     results to docs/performance.md and its plots
    memory, processes   what the kernel says of a process
    containerd a client of containerd that stays connected
    stage      one generation and one launcher: bundles, shims, daemons
    cases/     one module a case; each measures, and knows nothing of the others
    __main__   the runner
"""
