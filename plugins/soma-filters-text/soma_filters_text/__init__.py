"""soma_filters_text: sentence embeddings as a soma filter; its libraries are imported with it."""
