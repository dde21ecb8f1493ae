"""Shipped test tools: fakes of the models with set delays, a clock that is told the time, an RTVI client."""
