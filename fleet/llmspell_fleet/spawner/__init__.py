"""Ways to start a kernel's process, behind one Protocol."""
