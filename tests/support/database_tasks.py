"""Tasks that use a database as Django's and SQLAlchemy's users do: they open nothing, and close nothing."""

from __future__ import annotations

import os
import threading
from typing import Any

import django
import sqlalchemy
from django.conf import settings as django_settings
from sqlalchemy import orm

from greenworker import App

PORT = int(os.environ["DATABASE_PORT"])
POOL_TIMEOUT = float(os.environ["POOL_TIMEOUT"])  # seconds that a task waits for a connection
CONNECTIONS = 10
MEETING = threading.Barrier(int(os.environ["TOGETHER"]))
MEETING_TIMEOUT = 30.0

django_settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": "shop",
            "USER": "shop",
            "HOST": "127.0.0.1",
            "PORT": PORT,
            "OPTIONS": {"pool": {"min_size": 0, "max_size": CONNECTIONS, "timeout": POOL_TIMEOUT}},
        }
    },
    USE_TZ=True,
)
django.setup()

from django.db import connection, models, transaction


class Order(models.Model):
    """A row of the table ``orders``."""

    number = models.IntegerField()

    class Meta:
        app_label = "shop"
        db_table = "orders"


engine = sqlalchemy.create_engine(
    f"postgresql+psycopg://shop@127.0.0.1:{PORT}/shop",
    pool_size=CONNECTIONS,
    max_overflow=0,
    pool_timeout=POOL_TIMEOUT,
)
Session = orm.scoped_session(orm.sessionmaker(engine))


class Base(orm.DeclarativeBase):
    """Of the mapped classes."""


class MappedOrder(Base):
    """The same table."""

    __tablename__ = "orders"

    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    number: orm.Mapped[int]


app = App("database")


@app.task(name="database.django")
def with_django(number: int) -> int:
    MEETING.wait(MEETING_TIMEOUT)  # as many run at once as there are
    Order.objects.create(number=number)
    return Order.objects.filter(number=number).count()


@app.task(name="database.sqlalchemy")
def with_sqlalchemy(number: int) -> int:
    MEETING.wait(MEETING_TIMEOUT)
    Session.add(MappedOrder(number=number))
    Session.commit()
    return Session.query(MappedOrder).filter_by(number=number).count()


@app.task(name="database.ends", bind=True, max_retries=0)
def ends(self: Any, kind: str, how: str) -> None:
    """Uses a connection, then ends in one of the ways there are; within a transaction."""
    if kind == "django":
        Order.objects.count()
        transaction.atomic().__enter__()  # as a generator does that is not exhausted
        Order.objects.create(number=-1)
    else:
        Session.add(MappedOrder(number=-1))
        Session.flush()
    if how == "fails":
        raise ValueError("on purpose")
    if how == "exits":
        raise SystemExit("on purpose")
    if how == "retries":
        raise self.retry(countdown=0)
    if how == "sleeps":  # until its time limit
        if kind == "django":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(30)")
        else:
            Session.execute(sqlalchemy.text("SELECT pg_sleep(30)"))
