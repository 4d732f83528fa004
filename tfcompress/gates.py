"""Gates for the residual branches of a model."""

__all__: list[str] = []
