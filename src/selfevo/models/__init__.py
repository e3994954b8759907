"""Model folders, chat templates, devices, and servers that speak the OpenAI protocol."""
