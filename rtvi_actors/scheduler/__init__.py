"""Where actors live and who gets a place: warm pool, admission, and the actor that holds both."""
