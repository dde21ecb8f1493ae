"""The answer: context, clauses, hooks of the bot, the engine protocol, and its backends."""
