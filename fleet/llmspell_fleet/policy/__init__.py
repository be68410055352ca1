"""Every rule of the fleet, as pure functions over `model`: time and randomness are arguments."""
