"""Speech to text: the stage of one session, the engine protocol, and its backends."""
