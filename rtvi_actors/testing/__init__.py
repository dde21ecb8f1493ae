"""Shipped test tools: fakes of the models with set delays, a port for stages with a clock moved by hand, recordings, a client."""
