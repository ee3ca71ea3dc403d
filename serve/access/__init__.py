"""Who may call a service: TLS, and tokens with their rights."""
