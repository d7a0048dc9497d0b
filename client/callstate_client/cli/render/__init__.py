"""What commands print, as tables and documents, made of what the daemon answered. Nothing here prints."""
