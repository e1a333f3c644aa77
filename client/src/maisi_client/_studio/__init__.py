"""`maisi studio`: a page in the browser to look at, paint, generate and compare scans."""
