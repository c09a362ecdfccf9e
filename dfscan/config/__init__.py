"""Configuration: one validated model per command, loaded only when that command is used."""
