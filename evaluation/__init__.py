"""Held-out sentences: measures, words and opinion scores, pictures, the results page. It imports corpus/ and
conversion/."""
