"""What a person looks at: one HTML page that shows whether the masks are right."""
