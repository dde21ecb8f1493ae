"""The latency of turns."""
