"""One ZeroMQ connection to each kernel, and the executions that travel on it."""
