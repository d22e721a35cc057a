"""Training algorithms: finetuning, distribution matching and adversarial distillation."""
