"""Ray actors for real-time voice. The map of the house is in ARCHITECTURE.md."""
