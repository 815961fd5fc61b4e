"""The sections of the report, and the page that shows them. Imports neither torch nor pytest."""
