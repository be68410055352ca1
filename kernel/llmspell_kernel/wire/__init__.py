"""Bytes to messages and back, for every protocol a kernel speaks.

What lives here is pure: no sockets, clocks, randomness or threads. A codec is a value that is fed frames
and yields messages, or raises `PeerError` when the peer is at fault.
"""
