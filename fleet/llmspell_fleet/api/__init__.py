"""The HTTP face of the fleet: authenticate, translate, answer. Decides nothing about kernels."""
