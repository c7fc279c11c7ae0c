"""Pure rules about people and money: values and `now` in, a verdict with its reasons out."""
