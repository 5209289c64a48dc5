"""The scheduled upkeep of the session authority."""
