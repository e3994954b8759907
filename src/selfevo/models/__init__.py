"""Model folders, chat templates, devices, and servers with the OpenAI protocol."""
