"""From the bytes of a video to rows and crops of its faces."""
