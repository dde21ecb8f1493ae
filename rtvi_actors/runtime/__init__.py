"""How actors work: links, mailboxes, the actor around stages, and supervision."""
