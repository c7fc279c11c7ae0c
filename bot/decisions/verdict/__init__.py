"""Go, no-go, or what to find out next: rules over what was measured, the data and the money."""
