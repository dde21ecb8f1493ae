"""One client at a time: WebSocket wire, playout of bot audio, and the join of what the stages put out."""
