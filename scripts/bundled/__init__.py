"""The steps that make the bundled chat model: corpora, tokenizer, training, tuning, export, evaluation."""
