"""Operations with gradients of their own."""

__all__: list[str] = []
