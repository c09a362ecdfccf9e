"""Arrays and facts in; HTML, PNG and video out. No torch."""
