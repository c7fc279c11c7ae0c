"""Pure rules about people, data and money: values and `now` in, a verdict with its reasons out."""
