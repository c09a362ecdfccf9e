"""What people look at: plots and the model card. Knows neither torch nor ray."""
