"""Who speaks: voice activity, turns, endpointing, barge-in. The authority on turns."""
