"""One worker's work on one unit of videos; knows torch, never Ray."""
