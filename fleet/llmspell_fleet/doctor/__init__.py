"""Whether limits and isolation hold on this machine: tried, not assumed, on throwaway kernels of a throwaway fleet."""
