"""Cards of models in use, of answers that people tried, of machines by the hour, and of models that end."""
