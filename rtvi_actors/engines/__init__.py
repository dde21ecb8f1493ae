"""One model per device share, many sessions: the engine actor, batching, and the stages' side of it."""
