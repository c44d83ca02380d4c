"""What a chapter computes, as functions that return results."""
