"""The parts of the RabbitMQ backend; nothing outside of it uses them."""
