"""RabbitMQ through kombu's pyamqp transport, with a task path of our own beside it."""
