"""Tenants, and the kernels that they have, are promised and are lent."""
