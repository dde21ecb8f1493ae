"""What clients see: RTVI messages, the handshake, and the translation of events into messages. Pure."""
