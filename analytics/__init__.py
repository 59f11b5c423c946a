"""What is read in the cloud: the schema and its migrations, SQL for everyone, and the accounting."""
