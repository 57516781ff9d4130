"""The token step in C++ and its Python face. Knows neither torch nor models: addresses in, numbers out."""
