"""Brokers: connections, deliveries in, settlements and publishes out."""
