"""The executor: the only code that touches a model. One file per model kind."""
