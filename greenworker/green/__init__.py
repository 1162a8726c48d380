"""Green threads: the only folder that names gevent or eventlet."""
