"""A finished run tried on one's own pictures in a browser: `server`, what it is asked (`question`), and the page that it serves."""
