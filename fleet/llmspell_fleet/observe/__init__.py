"""What the fleet shows of itself: Prometheus metrics and the usage they are made from."""
