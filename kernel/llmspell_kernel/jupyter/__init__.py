"""The Jupyter face of a kernel: five ZeroMQ channels, messaging protocol 5.4.

`server` is the I/O thread's loop and owns every socket; the other modules hold one concern each and are called by it
on that thread. Nothing here touches Lua: `runtime.worker` is handed jobs, `runtime.outbox` brings back what they did.
"""
