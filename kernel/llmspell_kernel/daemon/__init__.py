"""Being a background process: leaving the terminal, and logging without one."""
