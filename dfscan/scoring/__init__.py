"""From the logits of faces to the decision about a video. No torch."""
