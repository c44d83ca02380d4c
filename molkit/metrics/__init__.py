"""What molecules are judged by."""
