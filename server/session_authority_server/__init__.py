"""The session authority: server side."""
