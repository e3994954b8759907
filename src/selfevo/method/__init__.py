"""The SELF method: loop, skills, records, losses, filters, rule of inference. It sees no gold answer."""
