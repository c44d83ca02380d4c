"""Chemistry programs behind small functions. Importing this package imports none of them."""
