"""Latency of turns, figures and traces."""
