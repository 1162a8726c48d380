"""Settings of the project, as Celery reads them."""

broker_url = "amqp://proj:secret@rabbit.example.org//"
result_backend = "redis://redis.example.org/0"

result_expires = 3600
task_time_limit = 60
task_acks_late = True
accept_content = ["json"]
task_routes = {"proj.tasks.send_mail": {"queue": "mail"}}
