"""The daemon's core: one loop that turns events into decisions (`policy`) and carries them out."""
