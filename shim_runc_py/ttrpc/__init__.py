"""ttrpc for Python: the whole wire protocol, server and client.

    frame       bytes to frames and back                          pure
    status      status numbers, and exceptions to statuses        pure
    connection  what a frame means, per role                      pure (sans-IO)
    server      services on a listening socket                    on an event loop
    client      calls and streams                                 on an event loop, or blocking

This package imports nothing else of the project. The event loop that `server` and `client` want
is described there as a small protocol; `shim_runc_py.loop` is one. docs/ttrpc.md has the wire
format, message by message.
"""
