"""Models after their training: deployed and rolled back, tried, served by the hour, counted, and followed until their
end."""
