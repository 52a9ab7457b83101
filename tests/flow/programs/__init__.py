"""Programs that flow tests run beside themselves, as processes of their own."""
