"""Reading faces and fitting a classifier; knows torch, never Ray."""
