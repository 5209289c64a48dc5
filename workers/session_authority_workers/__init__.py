"""The scheduled upkeep of a session authority."""
