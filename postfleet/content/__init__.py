"""Content of messages: templates, MIME, headers, return paths. Pure."""
