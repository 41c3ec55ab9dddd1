"""One seed watched, and drawn as one HTML page."""
