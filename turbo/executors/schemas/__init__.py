"""JSON that an answer must fit: schema files, and how an answer is compared with one, whatever either of them holds."""
