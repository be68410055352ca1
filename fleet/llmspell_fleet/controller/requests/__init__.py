"""What the HTTP face asks for: tenants and kernels made, shown, changed, explained and ended."""
