"""Text to speech: the stage of one session, the engine protocol, and its backends."""
