"""The fleet: the controller that starts, limits, watches and routes to many kernels."""
