"""Held-out sentences: measures, pictures, the results page. It imports corpus/ and conversion/."""
