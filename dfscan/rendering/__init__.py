"""Render arrays and facts as HTML, PNG and video. No torch."""
