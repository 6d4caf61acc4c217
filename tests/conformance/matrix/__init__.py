"""Every RPC of the task service in every state, with ordinary, odd and hostile input.

    calls.py      what is asked, in which states, and why an answer differs from the stock shim's
    answers.toml  what our shim answers
    stage.py      brings a container into a state, asks, and writes the answer down

An answer is a line: `OK` and the fields that are set, or the name of the gRPC code and the text;
then the events that were published, and the state that the process is in afterwards, if it is
another. What is different in every run is replaced: `<id>`, `<bundle>`, `<init>` and `<exec>` for
their pids, `then` for a time and `never` for Go's zero time. `waits` is a Wait without an answer,
`HANGS` any other call without one, `DIES` a shim that went. A row `[unified]` holds where cgroups
are v2.

A new row is a `Call`; `python -m tests.conformance.matrix.record` writes the answers that are not
there yet, for somebody to read. `make parity` asks the stock shims, too (docs/task-api.md).
"""
