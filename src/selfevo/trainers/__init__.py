"""Who trains: one trainer a file, and what all that use TRL share."""
