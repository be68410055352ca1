"""Kernels as forks of one parent that has imported everything: a start in milliseconds, at a few MiB."""
