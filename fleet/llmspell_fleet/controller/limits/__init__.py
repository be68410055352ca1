"""Holds kernels' processes to their tenants' limits, and says how strongly they are kept apart."""
