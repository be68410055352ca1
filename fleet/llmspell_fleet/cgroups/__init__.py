"""Control groups: what of a machine a kernel, a tenant and a fleet may use, held by the operating system."""
