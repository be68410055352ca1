"""Frozen records of the fleet: what should be, what is, what is asked and what is answered. Pure."""
