"""Models: configuration, decoder, checkpoints, tokenizers, chat templates, devices."""
