"""What travels between actors: the frames, their codec, and PCM helpers. Pure."""
