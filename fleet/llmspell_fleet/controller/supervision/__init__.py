"""Kernels as processes: started, watched, stopped, and explained when they end."""
