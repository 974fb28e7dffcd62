"""What was shipped: tasks, their versions, which is live and why; what is in an adapter, and its forms for others."""
