"""What kernels are given to do: executions, their output and their recorded outcomes."""
