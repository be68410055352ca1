"""Talking to a kernel: the one door for the command line and the fleet."""

from llmspell_kernel.client.kernel_client import (
    DeadlineError,
    ExecuteOutcome,
    KernelClient,
    KernelInfo,
    KernelStatistics,
)

__all__ = ["DeadlineError", "ExecuteOutcome", "KernelClient", "KernelInfo", "KernelStatistics"]
