"""The rooms of the chapter that joins the four studies."""
