"""Fine-tuning runs: what one is (`spec`), doing it (`run`), keeping it (`store`), many of them (`sweep`)."""
