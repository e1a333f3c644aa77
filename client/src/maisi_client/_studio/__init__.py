"""`maisi studio`: a page in the browser to view, paint, generate and compare scans."""
