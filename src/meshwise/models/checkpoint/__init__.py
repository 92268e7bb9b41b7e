"""What a checkpoint's files hold, from their headers alone: tensors, modules, formats."""
